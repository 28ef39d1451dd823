package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
//	agent → standby   StandbyCharge    count u32, count × (first byte u64, end u64): ranges of the memory
//	                  file that the agent is about to place pages in
//	standby → agent   StandbyCharge    error number u32: memory is allocated, or why not
//
// Memory is charged to the cgroup of whoever allocates it, and the sandbox's is not the agent's. Where they are the same,
// the answer is the same and nothing is done.
//
// When the socket ends before the sandbox was started, the process ends too: an
// agent that is gone will not start it, and nobody else may.
const (
	StandbyReady    = 'r'
	StandbyWhole    = 'w'
	StandbyParts    = 'p'
	StandbyAnnounce = 'a'
	StandbyCharge   = 'c'
)

// MaxChargeRanges bounds the ranges of one StandbyCharge.
const MaxChargeRanges = 256

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
			switch order[0] {
			case StandbyAnnounce:
				if err := l.Gates.Announce(); err != nil {
					log.Warningf("announce addresses: %v", err)
				}
			case StandbyCharge:
				if err := chargeFor(agent, l.Charge); err != nil {
					log.Warningf("charge memory: %v", err)
				}
			}
		}
	}()
	return whole, nil
}

// chargeFor obeys one StandbyCharge. charge may be nil.
func chargeFor(agent io.ReadWriter, charge func(start, end uint64) error) error {
	var word [4]byte
	if _, err := io.ReadFull(agent, word[:]); err != nil {
		return err
	}
	count := binary.LittleEndian.Uint32(word[:])
	if count > MaxChargeRanges {
		return fmt.Errorf("agent names %d ranges, at most %d", count, MaxChargeRanges)
	}
	ranges := make([]byte, count*RangeBytes)
	if _, err := io.ReadFull(agent, ranges); err != nil {
		return err
	}
	var failure error
	for ; len(ranges) > 0 && failure == nil && charge != nil; ranges = ranges[RangeBytes:] {
		failure = charge(binary.LittleEndian.Uint64(ranges), binary.LittleEndian.Uint64(ranges[8:]))
	}
	answer := []byte{StandbyCharge, 0, 0, 0, 0}
	if number := unix.Errno(0); errors.As(failure, &number) {
		binary.LittleEndian.PutUint32(answer[1:], uint32(number))
	} else if failure != nil {
		binary.LittleEndian.PutUint32(answer[1:], uint32(unix.EIO))
	}
	_, err := agent.Write(answer)
	return errors.Join(failure, err)
}
