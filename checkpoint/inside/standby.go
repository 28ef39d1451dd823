package inside

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// A standby is a sandbox process that waits for its kernel to come from another
// host. It has one more socket than other loads, to the agent that made it:
//
//	standby → agent   StandbyReady     the memory file may be written to. With it comes
//	                  the descriptor of the trap, if there is one (SCM_RIGHTS)
//	agent → standby   StandbyWhole or StandbyParts, the first order: whether all
//	                  pages are in their place before the kernel is started
//	agent → standby   StandbyAnnounce  the addresses live here from now on
//
// When the socket ends before the sandbox was started, the process ends too: an
// agent that is gone will not start it, and nobody else may.
const (
	StandbyReady    = 'r'
	StandbyWhole    = 'w'
	StandbyParts    = 'p'
	StandbyAnnounce = 'a'
)

// loadedBytes is about what a kernel of some processes takes while it is loaded.
const loadedBytes = 16 << 20

// warmHeap has the host give this process memory that the loading would otherwise wait for, page by page.
func warmHeap() {
	room := make([]byte, loadedBytes)
	for i := 0; i < len(room); i += pages.PageSize {
		room[i] = 1
	}
	runtime.KeepAlive(room)
	runtime.GC() // makes it free, and leaves it here
}

// standBy says that the process is ready, and obeys the agent from then on. It
// returns whether all pages come before the start.
func standBy(l *boot.Loading, agent *os.File) (whole bool, err error) {
	var rights []byte
	if l.Trap != nil {
		rights = unix.UnixRights(l.Trap.FD())
	}
	// The socket is empty: there is room.
	if err := unix.Sendmsg(int(agent.Fd()), []byte{StandbyReady}, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return false, fmt.Errorf("report to agent: %w", err)
	}
	var order [1]byte
	if _, err := agent.Read(order[:]); err != nil {
		return false, fmt.Errorf("hear from agent: %w", err)
	}
	whole = order[0] == StandbyWhole
	go func() {
		for {
			if _, err := agent.Read(order[:]); err != nil {
				l.Abandon()
				agent.Close()
				return
			}
			if order[0] == StandbyAnnounce {
				if err := l.Gates.Announce(); err != nil {
					log.Warningf("announce addresses: %v", err)
				}
			}
		}
	}()
	return whole, nil
}
