package inside

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// After post-copy the kernel runs while pages are still on another host. The pager
// that brings them may end; the next one attaches, and is told what is left.

// arriving is what this process's kernel lacks; nil where that did not come from
// another host.
var arriving atomic.Pointer[arrivals]

// CodeArriving is the finding that memory is still on another host.
const CodeArriving = "memory-arriving"

// findArriving says whether memory is still to come from another host.
func findArriving() []Finding {
	a := arriving.Load()
	if a == nil {
		return nil
	}
	left := a.left()
	if left == 0 {
		return nil
	}
	return []Finding{{
		Code:   CodeArriving,
		Detail: fmt.Sprintf("%d pages of memory are still to come from the host that it migrated from", left),
		Remedy: "wait until that migration is complete",
	}}
}

// AttachArgs carry the page socket of a new pager.
type AttachArgs struct {
	urpc.FilePayload // Files[0]
}

// Attached says what is left to bring: nothing if Ranges is empty.
type Attached struct {
	// Files[0] is the memfd, Files[1] the trap's descriptor if there is one. The receiver
	// closes them.
	urpc.FilePayload
	Ranges [][2]uint64 `json:"ranges"` // of pages
	// Mapped are the addresses [0] to [1] at which the memory file is mapped, where there
	// is a trap.
	Mapped [2]uint64 `json:"mapped"`
}

// Attach gives the kernel a new pager, after the one before has ended. What that
// placed without an answer is among what is left.
func (c *Checkpoint) Attach(in *AttachArgs, out *Attached) error {
	a := arriving.Load()
	if a == nil {
		return errors.New("this kernel did not come from another host")
	}
	files, err := duplicate(in.Files)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("attach was given %d files, want the page socket", len(files))
	}
	out.Files = []*os.File{c.s.Memory()}
	out.Ranges, out.Mapped, err = a.attach(files[0])
	if err != nil || len(out.Ranges) == 0 || a.trap == nil {
		return err
	}
	// The answer is sent when this has returned: the copy is closed at the end of memory's
	// arrival, or by the next pager.
	fd, err := unix.Dup(a.trap.FD())
	if err != nil {
		return fmt.Errorf("hand out the trap: %w", err)
	}
	out.Files = append(out.Files, a.lend(os.NewFile(uintptr(fd), "trap")))
	return nil
}

// attach makes socket, which a owns, the way to the pager.
func (a *arrivals) attach(socket *os.File) (left [][2]uint64, mapped [2]uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.over:
		return nil, mapped, socket.Close() // everything is here
	case !a.ready:
		socket.Close()
		return nil, mapped, errors.New("this kernel is not loaded")
	case a.pager != nil:
		// Two pagers would place pages behind each other's back.
		socket.Close()
		return nil, mapped, errors.New("this kernel has a pager")
	}
	a.pager = newPagerConn(socket)
	go a.receive(a.pager)
	for start, end := range a.missing.Ranges() {
		left = append(left, [2]uint64{start, end})
	}
	for id := range a.asked {
		a.ask(id)
	}
	for s := range a.waits {
		a.urge(*s)
	}
	return left, [2]uint64{uint64(a.window.addr), uint64(a.window.addr + a.window.bytes)}, nil
}

// lend keeps a descriptor until it is not needed any more, and returns it.
func (a *arrivals) lend(f *os.File) *os.File {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lent != nil {
		a.lent.Close()
	}
	a.lent = f
	return f
}

// Memory hands out the memory file of a kernel that is stopped for good.
func (c *Checkpoint) Memory(_ *control.None, out *Prepared) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil || c.stop.saving || c.stop.armed {
		return errors.New("the kernel is not stopped for good")
	}
	out.MemoryBytes = c.s.MemoryFile().TotalSize()
	out.Files = []*os.File{c.s.Memory()}
	return nil
}
