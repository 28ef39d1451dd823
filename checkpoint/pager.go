package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Pager is the way to a kernel that runs while pages of its memory are on another
// host. The caller places what is asked for in the memory file, and answers.
//
// A page that nobody asked for must not be placed: its frame may have been freed
// and be in use for something else. While a request is open, the kernel keeps its
// frames. Nor may a page be placed after its answer: it is the guest's then.
type Pager struct {
	socket *os.File
	memory *os.File
}

// Need is what a kernel asks for.
type Need struct {
	ID   uint32 // for Answer
	Runs []image.Run
}

// ErrAllLoaded says that a kernel has all of its pages.
var ErrAllLoaded = errors.New("all pages are loaded")

// Next waits for the kernel's next request. ErrAllLoaded is the last; io.EOF
// says that the kernel has ended, or that Close was called.
func (p *Pager) Next() (Need, error) {
	request, err := receiveRequest(p.socket, pages.MaxPages*pages.PageSize)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		err = io.EOF // a kernel that ends with answers unread resets the connection
	}
	return Need{ID: request.id, Runs: request.runs}, err
}

// writePatience is how long a kernel may take to read what its pager has to say. It never
// has reason to wait; the sandbox process may be in the hands of its guest.
const writePatience = 10 * time.Second

// Answer says that the pages of a request are in their place. After an error the kernel
// has no pager any more.
func (p *Pager) Answer(id uint32) error {
	p.socket.SetWriteDeadline(time.Now().Add(writePatience))
	_, err := p.socket.Write(binary.LittleEndian.AppendUint64(nil, uint64(id)))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.socket.Close() // what was written may be half an answer
	}
	return err
}

// Memory is the memory file, owned by the Pager.
func (p *Pager) Memory() *os.File { return p.memory }

// Close lets go of the kernel, which waits for another pager if it needs one.
func (p *Pager) Close() {
	p.socket.Close()
	p.memory.Close()
}

// Missing tells the kernel that every page but those of a set is in its place, and
// returns the way to bring these. It is called instead of Placed.
func (s *Standby) Missing(missing *pages.Set) (*Pager, error) {
	fd, err := unix.FcntlInt(s.Memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep sandbox memory: %w", err)
	}
	memory := os.NewFile(uintptr(fd), s.Memory.Name())
	s.pages.SetWriteDeadline(time.Now().Add(writePatience))
	if err := tellMissing(s.pages, missing); err != nil {
		memory.Close()
		return nil, err
	}
	p := &Pager{socket: s.pages, memory: memory}
	s.pages = nil // the Pager's now
	return p, nil
}

// tellMissing writes the answer AnswerMissing.
func tellMissing(socket io.Writer, missing *pages.Set) error {
	b := make([]byte, inside.RequestHeaderBytes)
	count := 0
	for start, end := range missing.Ranges() {
		b = binary.LittleEndian.AppendUint64(b, start*pages.PageSize)
		b = binary.LittleEndian.AppendUint64(b, end*pages.PageSize)
		count++
	}
	if count > inside.MaxMissingRanges {
		return fmt.Errorf("missing memory is in %d pieces, at most %d: send more of it before the stop", count, inside.MaxMissingRanges)
	}
	binary.LittleEndian.PutUint32(b, inside.AnswerMissing)
	binary.LittleEndian.PutUint32(b[4:], uint32(count))
	_, err := socket.Write(b)
	return err
}

// AttachPager becomes the pager of a kernel whose pager has ended, and returns
// what is left to bring. It returns a nil Pager where nothing is.
func AttachPager(ctx context.Context, sb *sandbox.Sandbox) (*Pager, *pages.Set, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	var out inside.Attached
	err = callFor(ctx, sb, inside.MethodAttach, &inside.AttachArgs{FilePayload: urpc.FilePayload{Files: []*os.File{theirs}}}, &out)
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("attach to sandbox %q: %w", sb.ID, err)
	}
	p, left, err := attached(ours, &out)
	if p == nil {
		ours.Close()
		closeFiles(out.Files)
	}
	return p, left, err
}

// attached checks what a kernel said of itself.
func attached(socket *os.File, out *inside.Attached) (*Pager, *pages.Set, error) {
	if len(out.Files) != 1 {
		return nil, nil, fmt.Errorf("%w: attach gave %d files, want the memory file", ErrSandbox, len(out.Files))
	}
	left := &pages.Set{}
	for _, r := range out.Ranges {
		if r[0] >= r[1] || r[1] > pages.MaxPages {
			return nil, nil, fmt.Errorf("%w: it lacks pages %d to %d", ErrSandbox, r[0], r[1])
		}
		left.AddRange(r[0], r[1])
	}
	if left.Empty() {
		return nil, left, nil
	}
	if _, err := checkMemory(out.Files[0]); err != nil {
		return nil, nil, err
	}
	return &Pager{socket: socket, memory: out.Files[0]}, left, nil
}

// StoppedMemory returns the memory file of a sandbox that is stopped for good
// (Disarm). The caller closes it.
func StoppedMemory(ctx context.Context, sb *sandbox.Sandbox) (*os.File, error) {
	var out inside.Prepared
	if err := callFor(ctx, sb, inside.MethodMemory, &control.None{}, &out); err != nil {
		return nil, fmt.Errorf("memory of sandbox %q: %w", sb.ID, err)
	}
	if len(out.Files) != 1 {
		closeFiles(out.Files)
		return nil, fmt.Errorf("%w: it gave %d files, want the memory file", ErrSandbox, len(out.Files))
	}
	if _, err := checkMemory(out.Files[0]); err != nil {
		closeFiles(out.Files)
		return nil, err
	}
	return out.Files[0], nil
}
