package dirty

import (
	"fmt"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// Tracker is a platform.Platform that tracks the dirty pages of one memory
// file. Its methods may be called by several goroutines at once.
type Tracker struct {
	platform.Platform

	options Options
	mapUnit atomic.Uint64
	// arrival is what SetArrival was given, nil for nothing.
	arrival atomic.Pointer[func(start, end uint64)]

	// main is the tracked file, as the platform sees it. Set once, before the
	// first address space.
	main memmap.File
	// memoryFile is the same file, or nil in tests that have no sentry.
	memoryFile *pgalloc.MemoryFile

	// armed is true from the begin of Arm to the begin of Disarm. It is written
	// with armMu held.
	armed    atomic.Bool
	counters counters
	throttle throttle

	armMu   sync.Mutex
	spent   bool     // guarded by armMu; see CollectLast
	sentry  *sentry  // guarded by armMu; nil while disarmed
	witness *witness // guarded by armMu; nil while disarmed

	spacesMu sync.Mutex
	spaces   map[*addressSpace]struct{} // guarded by spacesMu
	pool     []platform.AddressSpace    // guarded by spacesMu

	dirtyMu sync.Mutex
	dirty   Set // guarded by dirtyMu
}

// Wrap returns a disarmed Tracker in front of p.
func Wrap(p platform.Platform, o Options) *Tracker {
	return &Tracker{
		Platform: p, options: o.withDefaults(), spaces: make(map[*addressSpace]struct{}),
		throttle: throttle{contexts: make(map[*switchContext]struct{})},
	}
}

// SetMemoryFile names the file to track. It must be called once, before the
// first address space is created.
func (t *Tracker) SetMemoryFile(mf *pgalloc.MemoryFile) {
	t.main, t.memoryFile = mf, mf
}

// SetMapUnit makes the kernel map at most this many bytes, a power of two, at a
// time: small mappings keep a fault from waiting for more memory than it needs
// while memory is still arriving. Zero, the default, is what the wrapped
// platform says.
func (t *Tracker) SetMapUnit(bytes uint64) {
	t.mapUnit.Store(bytes)
}

// MapUnit implements platform.Platform.
func (t *Tracker) MapUnit() uint64 {
	if unit := t.mapUnit.Load(); unit != 0 {
		return unit
	}
	return t.Platform.MapUnit()
}

// SetArrival makes the mapping of pages [start, end) of the memory file wait until
// await returns, while memory is still arriving; nil ends that. The application then
// never sees a page that is not there yet.
func (t *Tracker) SetArrival(await func(start, end uint64)) {
	if await == nil {
		t.arrival.Store(nil)
		return
	}
	t.arrival.Store(&await)
}

// SeesMappings says whether SetArrival has an effect.
func (t *Tracker) SeesMappings() bool { return !t.options.Off }

// SupportsAddressSpaceIO implements platform.Platform. While anything can be
// tracked it is false: writes through an address space would fail on mappings
// made read-only here. The sentry then uses its own mapping.
func (t *Tracker) SupportsAddressSpaceIO() bool {
	return t.options.Off && t.Platform.SupportsAddressSpaceIO()
}

// NewAddressSpace implements platform.Platform.
func (t *Tracker) NewAddressSpace() (platform.AddressSpace, error) {
	if t.main == nil {
		return nil, ErrNoMemoryFile
	}
	inner := t.takePrewarmed()
	if inner == nil {
		var err error
		if inner, err = t.Platform.NewAddressSpace(); err != nil {
			return nil, err
		}
	}
	if t.options.Off {
		return inner, nil
	}
	a := &addressSpace{AddressSpace: inner, tracker: t}
	t.spacesMu.Lock()
	t.spaces[a] = struct{}{}
	t.spacesMu.Unlock()
	return a, nil
}

// NewContext implements platform.Platform.
func (t *Tracker) NewContext(ctx context.Context) platform.Context {
	inner := t.Platform.NewContext(ctx)
	if t.options.Off {
		return inner
	}
	return &switchContext{Context: inner, tracker: t, interrupts: make(chan struct{}, 1)}
}

// Prewarm creates address spaces of the wrapped platform ahead of their use, until
// there are n with those that exist: NewAddressSpace takes no time then. A restore
// calls it before, or while, the state arrives.
func (t *Tracker) Prewarm(n int) error {
	for t.spaceCount() < n {
		inner, err := t.Platform.NewAddressSpace()
		if err != nil {
			return fmt.Errorf("create an address space ahead: %w", err)
		}
		t.spacesMu.Lock()
		t.pool = append(t.pool, inner)
		t.spacesMu.Unlock()
	}
	return nil
}

// spaceCount returns how many address spaces there are, used or not.
func (t *Tracker) spaceCount() int {
	t.spacesMu.Lock()
	defer t.spacesMu.Unlock()
	return len(t.spaces) + len(t.pool)
}

// DropPrewarmed releases the address spaces made ahead that nothing has used.
func (t *Tracker) DropPrewarmed() {
	t.spacesMu.Lock()
	pool := t.pool
	t.pool = nil
	t.spacesMu.Unlock()
	for _, inner := range pool {
		inner.Release()
	}
}

func (t *Tracker) takePrewarmed() platform.AddressSpace {
	t.spacesMu.Lock()
	defer t.spacesMu.Unlock()
	n := len(t.pool)
	if n == 0 {
		return nil
	}
	inner := t.pool[n-1]
	t.pool = t.pool[:n-1]
	return inner
}

// allSpaces returns the address spaces that exist.
func (t *Tracker) allSpaces() []*addressSpace {
	t.spacesMu.Lock()
	defer t.spacesMu.Unlock()
	all := make([]*addressSpace, 0, len(t.spaces))
	for a := range t.spaces {
		all = append(all, a)
	}
	return all
}

// mark makes the pages of e dirty.
func (t *Tracker) mark(e entry) {
	start, end := e.filePages()
	t.dirtyMu.Lock()
	t.dirty.AddRange(start, end)
	t.dirtyMu.Unlock()
}

// markMapping makes the pages of e dirty because its mapping came or went.
func (t *Tracker) markMapping(e entry) {
	if t.options.Disable&RuleMappings == 0 {
		t.mark(e)
	}
}
