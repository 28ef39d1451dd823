package checkpoint

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// A kernel that ends with an answer unread has ended, as any other.
func TestPagerOfAKernelThatEnds(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	p := newPager(ours, theirs, nil)
	defer p.Close()
	if err := p.Placed([]image.Run{{First: 1, Count: 1}}); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of a kernel that has not read an answer is %v, want EOF", err)
	}
}

// A memory file that its sandbox could shrink under a reader is not taken.
func TestAttachedChecksTheMemoryFile(t *testing.T) {
	for seals, want := range map[int]error{0: ErrSandbox, unix.F_SEAL_SHRINK: nil} {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		memory := os.NewFile(uintptr(fd), "memory")
		defer memory.Close()
		if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		out := &inside.Attached{FilePayload: urpc.FilePayload{Files: []*os.File{memory}}, Ranges: [][2]uint64{{4, 8}}}
		p, left, err := attached(nil, out)
		if !errors.Is(err, want) {
			t.Errorf("seals %d: got %v, want %v", seals, err, want)
		}
		if want == nil && (p == nil || left.Count() != 4) {
			t.Errorf("seals %d: %v pages are left", seals, left)
		}
	}
}
