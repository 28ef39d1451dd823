package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// Pager is the way to a kernel that runs while pages of its memory are on another
// host. The caller places each missing page once (see Place) and says so (Placed); Next
// and NextFaults tell what the kernel waits for.
//
// The kernel keeps the frame of a missing page until it was told that the page is in
// its place, whatever the guest does meanwhile.
type Pager struct {
	socket *os.File
	memory *os.File
	trap   *faults.Handler // nil: pages are placed in the file
	// patience is writePatience, but in tests.
	patience time.Duration
	// adopted: another pager was before, and may have placed pages without saying so.
	adopted bool

	// saying is held while something is written, so that each answer has all of its time.
	saying sync.Mutex

	mu     sync.Mutex
	change sync.Cond
	// mapped are the addresses at which the memory file is mapped, [0] to [1]; zero before
	// the kernel has said so. Guarded by mu, as is everything below.
	mapped [2]uint64
	ended  bool
	deaf   error // why this pager gave the kernel up
}

func newPager(socket, memory *os.File, trap *faults.Handler) *Pager {
	p := &Pager{socket: socket, memory: memory, trap: trap, patience: writePatience}
	p.change.L = &p.mu
	p.boundUnread()
	return p
}

// unreadBytes bounds what the host keeps of what a kernel has not read, about. It is some hundreds of answers. The host's own bound,
// net.core.wmem_default, may be any: a kernel that does not read would be noticed late, or never.
const unreadBytes = 64 << 10

func (p *Pager) boundUnread() {
	if conn, err := p.socket.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, unreadBytes) })
	}
}

// ErrAllLoaded says that a kernel has all of its pages.
var ErrAllLoaded = errors.New("all pages are loaded")

// ErrDeaf says that a kernel did not read what its pager has to say, as while its process is
// frozen. It has no pager any more; AttachPager gives it the next.
var ErrDeaf = errors.New("sandbox process does not read what its pager says")

// Next waits until a task waits for pages, and returns these. ErrAllLoaded is the last;
// io.EOF says that the kernel has ended, or that Close was called, and ErrDeaf is that of
// Placed. It must be called all the time: other methods may wait for what it hears.
func (p *Pager) Next() ([]image.Run, error) {
	for {
		n, err := receiveNeed(p.socket)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
			err = io.EOF // a kernel that ends with answers unread resets the connection
		}
		if err != nil {
			return nil, p.end(err)
		}
		if n.mapped == [2]uint64{} {
			return n.runs, nil
		}
		p.set(n.mapped, false)
	}
}

func (p *Pager) set(mapped [2]uint64, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mapped == [2]uint64{} {
		p.mapped = mapped
	}
	p.ended = p.ended || ended
	p.change.Broadcast()
}

// end notes that the kernel says no more, and returns why.
func (p *Pager) end(err error) error {
	p.set([2]uint64{}, true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deaf != nil {
		return p.deaf
	}
	return err
}

// Mapped waits until Place needs to wait for nothing that Next hears. The error is io.EOF
// where that is never.
func (p *Pager) Mapped() error {
	if p.trap == nil {
		return nil
	}
	_, err := p.address(0)
	return err
}

// address returns where a page is mapped, once the kernel has said so, or io.EOF.
func (p *Pager) address(page uint64) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mapped == [2]uint64{} && !p.ended {
		p.change.Wait()
	}
	addr := p.mapped[0] + page*pages.PageSize
	switch {
	case p.mapped == [2]uint64{}:
		return 0, io.EOF
	case addr >= p.mapped[1]:
		return 0, fmt.Errorf("%w: page %d is beyond what it maps", ErrSandbox, page)
	}
	return addr, nil
}

// NextFaults waits until the kernel itself waits for pages, and returns these. They need
// not be missing ones: see Fill. The error is io.EOF after Close, and at once for a kernel
// without a trap.
func (p *Pager) NextFaults() ([]uint64, error) {
	if p.trap == nil {
		return nil, io.EOF
	}
	addresses, err := p.trap.Next()
	if errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	base, err := p.address(0)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, addr := range addresses {
		if page := (addr - base) / pages.PageSize; addr >= base && page < pages.MaxPages {
			list = append(list, page)
		}
	}
	return list, nil
}

// Place puts missing pages from first on in their place: whole pages, or count pages of
// zeros where data is nil. Whoever waits for them goes on, but for zeros: see Fill. The
// error is io.EOF where the kernel has ended.
func (p *Pager) Place(first, count uint64, data []byte) error {
	switch {
	case data == nil:
		return nil // it is a hole, which reads as zeros
	case p.trap == nil:
		if _, err := p.memory.WriteAt(data, int64(first*pages.PageSize)); err != nil {
			return fmt.Errorf("place pages in sandbox memory: %w", err)
		}
		return nil
	}
	addr, err := p.address(first + count - 1)
	if err != nil {
		return err
	}
	addr -= (count - 1) * pages.PageSize
	for len(data) > 0 {
		done, err := p.trap.Copy(addr, data)
		if errors.Is(err, faults.ErrPresent) && p.adopted {
			done += pages.PageSize // the pager before has placed this one, and the guest may have changed it
			err = p.trap.Wake(addr, uint64(done))
		}
		if errors.Is(err, faults.ErrGone) {
			return io.EOF
		}
		if err != nil {
			return fmt.Errorf("page %d: %w", first+uint64(done)/pages.PageSize, err)
		}
		addr, first, data = addr+uint64(done), first+uint64(done)/pages.PageSize, data[done:]
	}
	return nil
}

// Fill answers a fault on a page that is not missing, or that came as zeros: if it is a
// hole it becomes a page of zeros, and whoever waits for it goes on.
func (p *Pager) Fill(page uint64) error {
	addr, err := p.address(page)
	if err != nil {
		return err
	}
	err = p.trap.Zero(addr, pages.PageSize)
	if errors.Is(err, faults.ErrPresent) || errors.Is(err, faults.ErrGone) {
		return nil
	}
	return err
}

// writePatience is how long a kernel may take to read what its pager has to say. It never
// has reason to wait; the sandbox process may be in the hands of its guest.
const writePatience = 10 * time.Second

// MaxPlacedRuns bounds the runs that Placed takes.
const MaxPlacedRuns = 4096

// Placed says that pages are in their place. It may wait for as long as writePatience. After an
// error the kernel has no pager any more.
func (p *Pager) Placed(runs []image.Run) error {
	b := binary.LittleEndian.AppendUint32(nil, inside.AnswerPlaced)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(runs)))
	for _, r := range runs {
		b = binary.LittleEndian.AppendUint64(b, r.First*pages.PageSize)
		b = binary.LittleEndian.AppendUint64(b, (r.First+r.Count)*pages.PageSize)
	}
	p.saying.Lock()
	defer p.saying.Unlock()
	p.socket.SetWriteDeadline(time.Now().Add(p.patience))
	_, err := p.socket.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w within %v", ErrDeaf, p.patience)
		p.mu.Lock()
		p.deaf = err
		p.mu.Unlock()
		p.socket.Close() // what was written may be half an answer
	}
	return err
}

// Close lets go of the kernel, which waits for another pager if it needs one.
func (p *Pager) Close() {
	p.set([2]uint64{}, true)
	p.socket.Close()
	p.memory.Close()
	if p.trap != nil {
		p.trap.Close()
	}
}
