// Package failpoint names the moments of a migration at which a test stops a process, to kill it or another one just then, and what
// a test can make slow.
//
// Data in: the directory that the environment variable SBXMIGRATE_FAILPOINTS names. Where it is not set, which is always but in
// tests, nothing is done and nothing is looked at. Data out: for a point whose name is a file in that directory, the file is
// renamed to NAME.reached, and the process waits until that is removed. What is made slow is a file too, which says for how long; it is
// renamed in the same way and slows once.
package failpoint

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Variable is the environment variable that names the directory.
const Variable = "SBXMIGRATE_FAILPOINTS"

// The points, in the order in which a migration reaches them.
const (
	SourceBegun     = "source-begun"     // the attempt is in the journal
	TargetWelcomed  = "target-welcomed"  // the target took hello
	TargetStandby   = "target-standby"   // the standby waits for its kernel
	SourceRound     = "source-round"     // a round is in its place; only in pre-copy
	SourceStopped   = "source-stopped"   // the tasks are paused, the gates shut
	TargetAnnounced = "target-announced" // the target has the addresses
	SourceSent      = "source-sent"      // everything was sent
	TargetLoaded    = "target-loaded"    // the kernel is loaded, prepared is not said
	SourcePrepared  = "source-prepared"  // the target is prepared
	SourceDisarmed  = "source-disarmed"  // the sandbox stays paused whatever happens
	SourceHanded    = "source-handed"    // handed over in the journal; the commit is not sent
	TargetCommitted = "target-committed" // the commit came; nothing is in the journal
	TargetOwner     = "target-owner"     // owner and started in the journal; nothing runs
	TargetStarted   = "target-started"   // it runs; nobody knows
	TargetComplete  = "target-complete"  // complete in the journal; nobody was told
	SourceDeparted  = "source-departed"  // departed in the journal; the copy is there
	SourceDestroyed = "source-destroyed" // the copy is gone; the target was not told
)

// All lists the points in their order.
var All = []string{
	SourceBegun, TargetWelcomed, TargetStandby, SourceRound, SourceStopped, TargetAnnounced, SourceSent, TargetLoaded,
	SourcePrepared, SourceDisarmed, SourceHanded, TargetCommitted, TargetOwner, TargetStarted, TargetComplete, SourceDeparted,
	SourceDestroyed,
}

// JournalSync is no moment but what can be made slow: the next time that a journal is synced to the disk takes as long as its
// file says ("10s").
const JournalSync = "journal-sync"

var directory = os.Getenv(Variable)

// pollInterval is how often a waiting process looks whether it may go on.
const pollInterval = 5 * time.Millisecond

// Here is called at a point.
func Here(name string) {
	if directory == "" {
		return
	}
	armed := filepath.Join(directory, name)
	reached := armed + ".reached"
	if os.Rename(armed, reached) != nil {
		return // not armed
	}
	for {
		if _, err := os.Stat(reached); err != nil {
			return
		}
		time.Sleep(pollInterval)
	}
}

// Delay is called before something that can be made slow.
func Delay(name string) {
	if directory == "" {
		return
	}
	armed := filepath.Join(directory, name)
	content, err := os.ReadFile(armed)
	if err != nil || os.Rename(armed, armed+".reached") != nil {
		return // not armed, or taken by somebody else
	}
	if d, err := time.ParseDuration(strings.TrimSpace(string(content))); err == nil {
		time.Sleep(d)
	}
}
