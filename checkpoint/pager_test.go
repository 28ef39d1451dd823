package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
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

// A kernel that does not read, as while it is frozen, has no pager any more, and is not taken for one that has ended. That does not take long
// on a host whose buffers are large.
func TestPagerOfAKernelThatDoesNotRead(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	conn, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	conn.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 64*unreadBytes) })
	p := newPager(ours, ours, nil)
	p.patience = time.Millisecond
	answers := 0
	for ; err == nil; answers++ {
		err = p.Placed(make([]image.Run, MaxPlacedRuns))
	}
	if answers > 3 { // the host's kernel doubles unreadBytes
		t.Errorf("it has taken %d answers of more than %d bytes each until it is noticed", answers, 16*MaxPlacedRuns)
	}
	if !errors.Is(err, ErrDeaf) {
		t.Errorf("Placed to a kernel that does not read is %v, want %v", err, ErrDeaf)
	}
	if _, err := p.Next(); !errors.Is(err, ErrDeaf) {
		t.Errorf("Next after that is %v, want %v", err, ErrDeaf)
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

// saying is what a kernel sends.
func saying(id uint32, numbers ...uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(numbers)/2))
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// What a kernel may say of memory that is to come, and what it may not.
func TestReceiveNeed(t *testing.T) {
	const page = pages.PageSize
	for name, c := range map[string]struct {
		in   []byte
		want need
		err  error
	}{
		"need":               {in: saying(inside.RequestNeed, 4*page, 6*page, 9*page, 10*page), want: need{runs: []image.Run{{First: 4, Count: 2}, {First: 9, Count: 1}}}},
		"mapping":            {in: saying(inside.RequestMapped, 7*page, 9*page), want: need{mapped: [2]uint64{7 * page, 9 * page}}},
		"the last":           {in: saying(inside.RequestDone), err: ErrAllLoaded},
		"the end":            {in: nil, err: io.EOF},
		"half a header":      {in: saying(inside.RequestDone)[:5], err: io.EOF},
		"half a range":       {in: saying(inside.RequestNeed, 0, page)[:12], err: io.EOF},
		"need of nothing":    {in: saying(inside.RequestNeed), err: ErrSandbox},
		"need of too much":   {in: saying(inside.RequestNeed, 0, inside.MaxRequestBytes+page), err: ErrSandbox},
		"half a page":        {in: saying(inside.RequestNeed, 0, page/2), err: ErrSandbox},
		"a need backwards":   {in: saying(inside.RequestNeed, 2*page, page), err: ErrSandbox},
		"mapped nowhere":     {in: saying(inside.RequestMapped, 0, page), err: ErrSandbox},
		"mapped backwards":   {in: saying(inside.RequestMapped, 2*page, page), err: ErrSandbox},
		"mapped twice":       {in: saying(inside.RequestMapped, page, 2*page, 3*page, 4*page), err: ErrSandbox},
		"a read":             {in: saying(0, 0, page), err: ErrSandbox},
		"2^32-1 ranges":      {in: append(saying(inside.RequestNeed)[:4], 255, 255, 255, 255), err: ErrSandbox},
		"mapped beyond 2^42": {in: saying(inside.RequestMapped, page, 1<<60), err: ErrSandbox},
	} {
		got, err := receiveNeed(bytes.NewReader(c.in))
		if !errors.Is(err, c.err) || err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, got, err, c.want, c.err)
		}
	}
}

// Whatever a kernel says is taken apart or refused, and never more is asked for than may be.
func FuzzReceiveNeed(f *testing.F) {
	f.Add(saying(inside.RequestNeed, 4*pages.PageSize, 6*pages.PageSize))
	f.Add(saying(inside.RequestMapped, 4*pages.PageSize, 6*pages.PageSize))
	f.Add(saying(inside.RequestDone))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := receiveNeed(bytes.NewReader(data))
		if err != nil {
			return
		}
		count := uint64(0)
		for _, r := range n.runs {
			count += r.Count
		}
		if count > inside.MaxRequestBytes/pages.PageSize || (count == 0) == (n.mapped == [2]uint64{}) {
			t.Errorf("%+v", n)
		}
	})
}
