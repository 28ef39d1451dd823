package checkpoint

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

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
	p := newPager(s.pages, memory, s.trap)
	s.pages, s.trap = nil, nil // the Pager's now
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
	if n := len(out.Files); n < 1 || n > 2 {
		return nil, nil, fmt.Errorf("%w: attach gave %d files, want the memory file and the trap", ErrSandbox, n)
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
	p := newPager(socket, out.Files[0], nil)
	p.adopted = true
	if len(out.Files) == 1 {
		return p, left, nil
	}
	if err := checkMapped(out.Mapped); err != nil {
		return nil, nil, err
	}
	p.mapped = out.Mapped
	var err error
	if p.trap, err = faults.NewHandler(out.Files[1]); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSandbox, err)
	}
	out.Files[1].Close()
	// What the pager before has seen, nobody will see again, unless they look again.
	if err := p.trap.Wake(p.mapped[0], p.mapped[1]-p.mapped[0]); err != nil {
		p.trap.Close()
		return nil, nil, err
	}
	return p, left, nil
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
