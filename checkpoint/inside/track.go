package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

const dirtyPageBytes = pages.PageSize

// ArmArgs begins to track dirty pages. Files[0] is a lifeline: tracking and
// throttling end with it.
type ArmArgs struct {
	urpc.FilePayload
}

// ArmResult says whether anything is tracked.
type ArmResult struct {
	// Unsupported says why not, empty where pages are tracked.
	Unsupported string `json:"unsupported,omitempty"`
}

// PageRanges is a set of pages: first page and end of each run, ascending.
type PageRanges struct {
	Ranges [][2]uint64 `json:"ranges"`
}

// ThrottleArgs takes a share of its time from the application, until the lifeline
// of Arm or the stop ends that.
type ThrottleArgs struct {
	Percent int `json:"percent"`
}

// ThrottleResult says whether time is taken.
type ThrottleResult struct {
	// Unsupported says why not.
	Unsupported string `json:"unsupported,omitempty"`
}

// FrameList is frames on their way from one gate to another.
type FrameList struct {
	Frames []network.Frame `json:"frames"`
}

// ReleaseArgs ends a stop by which the sandbox did not move.
type ReleaseArgs struct {
	// Announce makes the addresses known again, since another host has
	// announced them.
	Announce bool `json:"announce"`
}

// Arm begins to track.
func (c *Checkpoint) Arm(in *ArmArgs, out *ArmResult) error {
	if len(in.Files) != 1 {
		return fmt.Errorf("arm was given %d files, want the lifeline", len(in.Files))
	}
	files, err := duplicate(in.Files)
	if err != nil {
		return err
	}
	lifeline := files[0]
	_, err = c.s.Tracker().Arm()
	if errors.Is(err, dirty.ErrUnsupported) {
		out.Unsupported = err.Error()
	} else if err != nil {
		lifeline.Close()
		return fmt.Errorf("track memory: %w", err)
	}
	go c.disarmWith(lifeline)
	return nil
}

// disarmWith ends tracking and throttling when nobody is interested any more.
func (c *Checkpoint) disarmWith(lifeline *os.File) {
	io.ReadFull(lifeline, make([]byte, 1)) // nothing is ever written
	lifeline.Close()
	c.unthrottle()
	if err := c.s.Tracker().Disarm(); err != nil {
		log.Warningf("end tracking of memory: %v", err)
	}
}

// Throttle takes time from the application. It is for after Arm, with whose
// lifeline it ends.
func (c *Checkpoint) Throttle(in *ThrottleArgs, out *ThrottleResult) error {
	err := c.s.Tracker().Throttle(in.Percent)
	if errors.Is(err, dirty.ErrUnsupported) {
		out.Unsupported = err.Error()
		return nil
	}
	return err
}

func (c *Checkpoint) unthrottle() {
	if err := c.s.Tracker().Throttle(0); err != nil {
		log.Warningf("end throttling: %v", err)
	}
}

// Collect returns what became dirty.
func (c *Checkpoint) Collect(_ *control.None, out *PageRanges) error {
	set, _, err := c.s.Tracker().Collect()
	if err != nil {
		return fmt.Errorf("collect dirty pages: %w", err)
	}
	out.Ranges = rangesOf(set)
	return nil
}

// Mapped returns the pages that processes have mapped.
func (c *Checkpoint) Mapped(_ *control.None, out *PageRanges) error {
	out.Ranges = rangesOf(c.s.Tracker().MappedPages())
	return nil
}

func rangesOf(set *pages.Set) [][2]uint64 {
	ranges := [][2]uint64{}
	for start, end := range set.Ranges() {
		ranges = append(ranges, [2]uint64{start, end})
	}
	return ranges
}

// releasePatience bounds how long Release waits for a save under way, which is the encoding of a kernel that nobody reads.
const releasePatience = 5 * time.Second

// Release lets the tasks go on if a stop is under way, and does nothing
// otherwise. When it returns they do, unless a save takes longer than any should.
func (c *Checkpoint) Release(in *ReleaseArgs, _ *control.None) error {
	c.mu.Lock()
	st := c.stop
	if st == nil {
		c.mu.Unlock()
		return nil
	}
	st.announce = in.Announce
	if st.saving {
		st.abandoned = true // Save resumes when it is done
	} else {
		c.resumeLocked(st)
	}
	c.mu.Unlock()
	select {
	case <-st.ended:
	case <-time.After(releasePatience):
	}
	return nil
}

// Frames returns the frames that the shut gates have held since the last call,
// for the gates of the host that the sandbox moves to. This sandbox keeps them
// as well, and passes them if it does not move.
func (c *Checkpoint) Frames(_ *control.None, out *FrameList) error {
	out.Frames = []network.Frame{}
	if c.s.Phase() != boot.PhaseSaving {
		return nil
	}
	_, gates := c.s.Network()
	out.Frames = append(gates.Frames(network.Outbound), gates.Frames(network.Inbound)...)
	return nil
}

// Inject gives the gates frames of the host that the sandbox comes from.
func (c *Checkpoint) Inject(in *FrameList, _ *control.None) error {
	_, gates := c.s.Network()
	return gates.Inject(in.Frames)
}
