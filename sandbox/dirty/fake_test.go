package dirty

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// fakeFile is a memory file that only has an identity.
type fakeFile struct {
	memmap.File
	name string
}

// fakeHost is the memory of a machine: a version for each page of the file,
// which every write raises.
type fakeHost struct {
	platform.Platform
	main     *fakeFile
	versions []atomic.Uint64

	// failMap, if not nil, decides whether a MapFile fails with ENOMEM.
	failMap func() bool
	maps    atomic.Uint64 // calls of MapFile
	created atomic.Uint64
}

func newFakeHost(pageCount int) *fakeHost {
	return &fakeHost{main: &fakeFile{name: "main"}, versions: make([]atomic.Uint64, pageCount)}
}

// tracker returns a Tracker in front of h, without a sentry.
func (h *fakeHost) tracker(o Options) *Tracker {
	t := Wrap(h, o)
	t.main = h.main
	return t
}

func (h *fakeHost) MapUnit() uint64 { return 0 }

func (h *fakeHost) NewAddressSpace() (platform.AddressSpace, error) {
	h.created.Add(1)
	return &fakeSpace{host: h, table: map[uint64]fakePTE{}}, nil
}

func (h *fakeHost) NewContext(context.Context) platform.Context {
	return &fakeContext{host: h}
}

// fakePTE maps one page.
type fakePTE struct {
	file   memmap.File
	page   uint64 // of the file
	access hostarch.AccessType
}

// fakeSpace is a page table.
type fakeSpace struct {
	platform.AddressSpace
	host *fakeHost

	mu       sync.RWMutex
	table    map[uint64]fakePTE // guarded by mu
	released bool               // guarded by mu
}

func (s *fakeSpace) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, _ bool) error {
	s.host.maps.Add(1)
	if s.host.failMap != nil && s.host.failMap() {
		return unix.ENOMEM
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := uint64(0); i < fr.Length()/pageSize; i++ {
		s.table[uint64(addr)/pageSize+i] = fakePTE{f, fr.Start/pageSize + i, at}
	}
	return nil
}

func (s *fakeSpace) Unmap(addr hostarch.Addr, length uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := uint64(0); i < length/pageSize; i++ {
		delete(s.table, uint64(addr)/pageSize+i)
	}
}

func (s *fakeSpace) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.table)
	s.released = true
}

func (s *fakeSpace) pte(addr uint64) (fakePTE, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.table[addr/pageSize]
	return e, ok
}

// fakeContext runs an application of one instruction: a write to target. A
// Switch returns as after a system call when the write was done.
type fakeContext struct {
	platform.Context
	host   *fakeHost
	target uint64
	// onFault, if not nil, is called with each fault before it is reported.
	onFault func()
}

func (c *fakeContext) Interrupt()    {}
func (c *fakeContext) PrepareSleep() {}

func (c *fakeContext) Switch(_ context.Context, mm platform.MemoryManager, _ *arch.Context64, _ int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	s := mm.AddressSpace().(*fakeSpace)
	s.mu.RLock()
	e, ok := s.table[c.target/pageSize]
	allowed := ok && e.access.Write
	if allowed && e.file == memmap.File(c.host.main) {
		c.host.versions[e.page].Add(1)
	}
	s.mu.RUnlock()
	if allowed {
		return nil, hostarch.NoAccess, nil
	}
	if c.onFault != nil {
		c.onFault()
	}
	info := &linux.SignalInfo{Signo: int32(linux.SIGSEGV)}
	info.SetAddr(c.target)
	return info, hostarch.Write, platform.ErrContextSignal
}

// fakeMM is the kernel's memory manager of one process: it knows what each page
// should be, and maps it when the application faults.
type fakeMM struct {
	platform.MemoryManager
	space platform.AddressSpace
	ctx   platform.Context
	inner *fakeContext
	regs  *arch.Context64

	mu   sync.Mutex
	want map[uint64]fakePTE // guarded by mu; by page of the address
}

func newFakeMM(t *Tracker) *fakeMM {
	space, err := t.NewAddressSpace()
	if err != nil {
		panic(err)
	}
	ctx := t.NewContext(nil)
	return &fakeMM{space: space, ctx: ctx, inner: ctx.(*switchContext).Context.(*fakeContext), want: map[uint64]fakePTE{}, regs: arch.New(arch.Host)}
}

func (m *fakeMM) AddressSpace() platform.AddressSpace { return m.space }

// mapPages maps count pages of f, from the page on, at the address page.
func (m *fakeMM) mapPages(addrPage uint64, f memmap.File, page, count uint64, at hostarch.AccessType) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fr := memmap.FileRange{Start: page * pageSize, End: (page + count) * pageSize}
	if err := m.space.MapFile(hostarch.Addr(addrPage*pageSize), f, fr, at, false); err != nil {
		return err // and nothing has changed
	}
	for i := range count {
		m.want[addrPage+i] = fakePTE{f, page + i, at}
	}
	return nil
}

func (m *fakeMM) unmapPages(addrPage, count uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range count {
		delete(m.want, addrPage+i)
	}
	m.space.Unmap(hostarch.Addr(addrPage*pageSize), count*pageSize)
}

// write lets the application write to the page. It reports whether it could, as
// opposed to the kernel sending it a signal; ended is false if it never came to
// an end.
func (m *fakeMM) write(addrPage uint64) (wrote, ended bool) {
	m.inner.target = addrPage*pageSize + 8
	for range 100 {
		_, _, err := m.ctx.Switch(nil, m, m.regs, -1)
		if err == nil {
			return true, true
		}
		m.mu.Lock()
		e, ok := m.want[addrPage]
		if !ok || !e.access.Write {
			m.mu.Unlock()
			return false, true
		}
		fr := memmap.FileRange{Start: e.page * pageSize, End: (e.page + 1) * pageSize}
		m.space.MapFile(hostarch.Addr(addrPage*pageSize), e.file, fr, e.access, false)
		m.mu.Unlock()
	}
	return false, false
}

// randomAccess returns some access.
func randomAccess(rng *rand.Rand) hostarch.AccessType {
	switch rng.IntN(4) {
	case 0:
		return hostarch.Read
	case 1:
		return hostarch.Write
	}
	return hostarch.ReadWrite
}
