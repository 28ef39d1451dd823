package inside

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// After post-copy the kernel runs while pages are still on another host. The pager
// that brings them may end; the next one attaches, and is told what is left.

// arriving is the reader of this process's kernel; nil where that was not loaded.
var arriving atomic.Pointer[pageReader]

// CodeArriving is the finding that memory is still on another host.
const CodeArriving = "memory-arriving"

// findArriving says whether memory is still to come from another host.
func findArriving() []Finding {
	r := arriving.Load()
	if r == nil {
		return nil
	}
	left := r.left()
	if left == 0 {
		return nil
	}
	return []Finding{{
		Code:   CodeArriving,
		Detail: fmt.Sprintf("%d pages of memory are still to come from the host that it migrated from", left),
		Remedy: "wait until that migration is complete",
	}}
}

// left returns how many pages are still to come, after post-copy.
func (r *pageReader) left() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || !r.lasting {
		return 0
	}
	return max(1, r.missing.Count())
}

// AttachArgs carry the page socket of a new pager.
type AttachArgs struct {
	urpc.FilePayload // Files[0]
}

// Attached says what is left to bring: nothing if Ranges is empty.
type Attached struct {
	urpc.FilePayload             // Files[0] is the memfd; the receiver closes it
	Ranges           [][2]uint64 `json:"ranges"` // of pages
}

// Attach gives the kernel a new pager, after the one before has ended. What that
// placed without an answer is among what is left.
func (c *Checkpoint) Attach(in *AttachArgs, out *Attached) error {
	r := arriving.Load()
	if r == nil {
		return errors.New("this kernel came from nowhere")
	}
	files, err := duplicate(in.Files)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("attach was given %d files, want the page socket", len(files))
	}
	out.Files = []*os.File{c.s.Memory()}
	out.Ranges, err = r.attach(files[0])
	return err
}

// attach makes socket, which r owns, the way to the pager.
func (r *pageReader) attach(socket *os.File) ([][2]uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed || r.missing != nil && !r.lasting:
		return nil, socket.Close() // everything is here
	case !r.lasting:
		socket.Close()
		return nil, errors.New("this kernel's pages come from an image")
	case r.socket != nil:
		// Two pagers would place pages behind each other's back.
		socket.Close()
		return nil, errors.New("this kernel has a pager")
	}
	r.socket = socket
	go r.receive(socket)
	var left [][2]uint64
	for start, end := range r.missing.Ranges() {
		left = append(left, [2]uint64{start, end})
	}
	r.askAgain()
	return left, nil
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
