package dirty

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/hostarch"
)

const (
	modelPages     = 4096 // of the file
	modelAddresses = 3000 // pages that processes map
)

// model drives a Tracker over a fake host at random, and knows what the other
// side has of each page.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	host    *fakeHost
	tracker *Tracker
	other   *fakeFile
	mms     []*fakeMM
	sent    []uint64 // version of each page on the other side
}

func newModel(t *testing.T, seed uint64, o Options) *model {
	host := newFakeHost(modelPages)
	return &model{
		t: t, rng: rand.New(rand.NewPCG(seed, 99)), host: host, tracker: host.tracker(o),
		other: &fakeFile{name: "other"}, sent: make([]uint64, modelPages),
	}
}

// sendAll is what a migration does after Arm.
func (m *model) sendAll() {
	for p := range m.sent {
		m.sent[p] = m.host.versions[p].Load()
	}
}

func (m *model) send(set *Set) {
	for start, end := range set.Ranges() {
		for p := start; p < end; p++ {
			m.sent[p] = m.host.versions[p].Load()
		}
	}
}

// missed counts the pages that the other side has another version of.
func (m *model) missed() (n int) {
	for p := range m.sent {
		if m.sent[p] != m.host.versions[p].Load() {
			n++
		}
	}
	return n
}

// mapped reports whether any process maps the page.
func (m *model) mapped(page uint64) bool {
	for _, mm := range m.mms {
		for _, e := range mm.want {
			if e.file == m.host.main && e.page == page {
				return true
			}
		}
	}
	return false
}

// step does one random thing that a kernel or an application does.
func (m *model) step() {
	if len(m.mms) < 2 || len(m.mms) < 6 && m.rng.IntN(200) == 0 {
		m.mms = append(m.mms, newFakeMM(m.tracker))
	}
	i := m.rng.IntN(len(m.mms))
	mm := m.mms[i]
	addr := m.rng.Uint64N(modelAddresses)
	count := 1 + m.rng.Uint64N(min(modelAddresses-addr, 300))
	switch k := m.rng.IntN(100); {
	case k < 70:
		m.write(mm, addr)
	case k < 85:
		page := m.rng.Uint64N(modelPages - count)
		if m.rng.IntN(3) == 0 {
			page = addr // so that mappings adjoin
		}
		if m.rng.IntN(8) == 0 {
			mm.mapPages(addr, m.other, page, count, randomAccess(m.rng))
			return
		}
		if !m.mapped(page) {
			// A frame that nobody maps was freed and used again.
			m.host.versions[page].Add(1)
		}
		mm.mapPages(addr, m.host.main, page, count, randomAccess(m.rng))
	case k < 99:
		mm.unmapPages(addr, count)
	default:
		mm.space.Release()
		m.mms = append(m.mms[:i], m.mms[i+1:]...)
	}
}

// write writes to a page and checks that it is possible exactly if the kernel
// allows it.
func (m *model) write(mm *fakeMM, addr uint64) {
	m.t.Helper()
	want, ok := mm.want[addr]
	wrote, ended := mm.write(addr)
	if !ended {
		m.t.Fatalf("a write to %+v never ends", want)
	}
	if allowed := ok && want.access.Write; wrote != allowed {
		m.t.Fatalf("wrote is %v, allowed is %v: %+v", wrote, allowed, want)
	}
}

// run arms, does a number of rounds and returns how many pages were missed
// after each in total.
func (m *model) run(rounds, stepsPerRound int) (missed int) {
	m.t.Helper()
	for range stepsPerRound {
		m.step()
	}
	if _, err := m.tracker.Arm(); err != nil {
		m.t.Fatal(err)
	}
	m.sendAll()
	for round := range rounds {
		for range m.rng.IntN(stepsPerRound) {
			m.step()
		}
		collect := m.tracker.Collect
		if round == rounds-1 {
			collect = m.tracker.CollectLast
		}
		set, _, err := collect()
		if err != nil {
			m.t.Fatal(err)
		}
		m.send(set)
		missed += m.missed()
	}
	if err := m.tracker.Disarm(); err != nil {
		m.t.Fatal(err)
	}
	m.checkDisarmed()
	return missed
}

// checkDisarmed checks that every mapping is as the kernel wants it.
func (m *model) checkDisarmed() {
	m.t.Helper()
	faults := m.tracker.counters.faults.Load()
	for _, mm := range m.mms {
		for addr, want := range mm.want {
			got, ok := mm.space.(*addressSpace).AddressSpace.(*fakeSpace).pte(addr * pageSize)
			if !ok || m.host.failMap != nil {
				continue // not mapped yet
			}
			if got.page != want.page || got.access.Write && !want.access.Write {
				m.t.Fatalf("page is mapped as %+v, want %+v", got, want)
			}
			if want.access.Write && !got.access.Write {
				m.t.Fatalf("page is still protected: %+v", got)
			}
		}
	}
	if n := m.tracker.counters.faults.Load(); n != faults {
		m.t.Fatalf("%d faults while looking", n-faults)
	}
}

var modelOptions = []Options{
	{},
	{MinClusterBytes: pageSize, MaxClusterBytes: pageSize},
	{MinClusterBytes: pageSize, FaultsPerStep: 10},
}

// TestNoPageIsMissed runs random kernels and applications.
func TestNoPageIsMissed(t *testing.T) {
	for seed := range uint64(12) {
		m := newModel(t, seed, modelOptions[seed%3])
		if missed := m.run(20, 400); missed != 0 {
			t.Errorf("seed %d: %d pages missed", seed, missed)
		}
		if missed := m.run(5, 200); missed != 0 { // armed again
			t.Errorf("seed %d, armed again: %d pages missed", seed, missed)
		}
	}
}

// TestNoPageIsMissedWhenMapsFail does so on a host that often refuses a mapping.
func TestNoPageIsMissedWhenMapsFail(t *testing.T) {
	for seed := range uint64(12) {
		m := newModel(t, seed, modelOptions[seed%3])
		rng := rand.New(rand.NewPCG(seed, 5))
		m.host.failMap = func() bool { return rng.IntN(10) == 0 }
		if missed := m.run(20, 400); missed != 0 {
			t.Errorf("seed %d: %d pages missed", seed, missed)
		}
	}
}

// TestMappingRuleIsNeeded is the negative control of the model.
func TestMappingRuleIsNeeded(t *testing.T) {
	m := newModel(t, 1, Options{Disable: RuleMappings})
	if m.run(20, 400) == 0 {
		t.Error("without the rule on mappings, no page was missed: the model cannot fail")
	}
}

// TestCleanPagesStayClean checks that a collection does not simply name all.
func TestCleanPagesStayClean(t *testing.T) {
	host := newFakeHost(modelPages)
	tr := host.tracker(Options{})
	mm := newFakeMM(tr)
	mm.mapPages(0, host.main, 0, 2048, hostarch.ReadWrite)
	if _, err := tr.Arm(); err != nil {
		t.Fatal(err)
	}
	collect := func(want uint64) *Set {
		t.Helper()
		set, stats, err := tr.Collect()
		if err != nil || set.Count() != want || stats.Pages != want {
			t.Fatalf("%d pages are dirty, want %d: %v", set.Count(), want, err)
		}
		return set
	}
	collect(0)
	mm.write(100)
	if set := collect(16); !set.Has(100) {
		t.Error("the page is not in its cluster")
	}
	collect(0)
	mm.write(100) // a round later it faults again
	mm.write(1000)
	before := host.maps.Load()
	collect(32)
	if n := host.maps.Load() - before; n != 2 {
		t.Errorf("protecting two clusters took %d calls", n)
	}
	for p := uint64(0); p < 512; p += 16 { // neighbours, protected in one call
		mm.write(p)
	}
	before = host.maps.Load()
	collect(512)
	if n := host.maps.Load() - before; n != 1 {
		t.Errorf("protecting neighbouring clusters took %d calls", n)
	}
	if n := mm.space.(*addressSpace).table.count(); n != 1 {
		t.Errorf("the table has %d entries", n)
	}
}

// TestConcurrentWriters has applications, a kernel and a collector at once. The
// other side reads pages while they are written, as a migration does; after the
// last collection of the stopped sandbox all must be equal.
func TestConcurrentWriters(t *testing.T) {
	m := newModel(t, 3, Options{MinClusterBytes: pageSize, FaultsPerStep: 1000})
	const writers = 4
	shared := newFakeMM(m.tracker)
	var wg sync.WaitGroup
	var running atomic.Int32
	running.Store(writers)
	for i := range uint64(writers) {
		wg.Go(func() {
			defer running.Add(-1)
			rng := rand.New(rand.NewPCG(i, 1))
			// Two threads share an address space, the others have their own and
			// share pages.
			mm := newFakeMM(m.tracker)
			if i < 2 {
				mm.space = shared.space
			}
			for range 5000 {
				addr := 64*i + rng.Uint64N(64)
				switch rng.IntN(20) {
				case 0:
					mm.mapPages(addr, m.host.main, addr%128, 1+rng.Uint64N(8), hostarch.ReadWrite)
				case 1:
					mm.unmapPages(addr, 1+rng.Uint64N(4))
				default:
					mm.write(addr)
				}
			}
		})
	}
	if _, err := m.tracker.Arm(); err != nil {
		t.Fatal(err)
	}
	m.sendAll()
	for running.Load() > 0 {
		set, _, err := m.tracker.Collect()
		if err != nil {
			t.Error(err)
			break
		}
		m.send(set)
	}
	wg.Wait()
	set, _, err := m.tracker.CollectLast()
	if err != nil {
		t.Fatal(err)
	}
	m.send(set)
	if n := m.missed(); n != 0 {
		t.Errorf("%d pages missed", n)
	}
}

// lateFaults has an application write to a page that a collection has protected
// already, before the collection ends: its mark is in the set, and yet the page
// stays writable. The application writes on and unmaps the page. It returns how
// many pages are missed then.
func lateFaults(t *testing.T, o Options) (missed int) {
	for seed := range uint64(30) { // the order of address spaces is random
		m := newModel(t, seed, o)
		x, y := newFakeMM(m.tracker), newFakeMM(m.tracker)
		x.mapPages(0, m.host.main, 0, 16, hostarch.ReadWrite)
		y.mapPages(0, m.host.main, 16, 16, hostarch.ReadWrite)
		if _, err := m.tracker.Arm(); err != nil {
			t.Fatal(err)
		}
		m.sendAll()
		x.write(0)
		y.write(0)
		inHook := false
		m.host.failMap = func() bool { // while one is being protected
			if inHook {
				return false
			}
			inHook = true
			for _, other := range []*fakeMM{x, y} {
				if other.space.(*addressSpace).mu.TryLock() {
					other.space.(*addressSpace).mu.Unlock()
					other.write(0)
				}
			}
			inHook = false
			return false
		}
		for range 2 {
			set, _, err := m.tracker.Collect()
			if err != nil {
				t.Fatal(err)
			}
			m.host.failMap = nil
			m.send(set)
			for _, mm := range []*fakeMM{x, y} {
				mm.write(0)
				mm.unmapPages(0, 16)
			}
		}
		missed += m.missed()
	}
	return missed
}

func TestLateFaults(t *testing.T) {
	if n := lateFaults(t, Options{}); n != 0 {
		t.Errorf("%d pages missed", n)
	}
	if n := lateFaults(t, Options{Disable: RuleMappings}); n == 0 {
		t.Error("no page was missed without the rule on mappings")
	}
}

// TestStaleFaultGoesOn has another thread open the page between a fault and its
// handling: the application must go on, and the kernel must not see the fault.
func TestStaleFaultGoesOn(t *testing.T) {
	host := newFakeHost(modelPages)
	tr := host.tracker(Options{})
	first, second := newFakeMM(tr), newFakeMM(tr)
	second.space = first.space
	first.mapPages(0, host.main, 0, 16, hostarch.ReadWrite)
	if _, err := tr.Arm(); err != nil {
		t.Fatal(err)
	}
	first.inner.onFault = func() { second.write(3) }
	before := host.maps.Load()
	if wrote, _ := first.write(3); !wrote {
		t.Fatal("the write failed")
	}
	if n := host.maps.Load() - before; n != 1 {
		t.Errorf("%d mappings for two faults on one page", n)
	}
	if n := tr.counters.retries.Load(); n != 1 {
		t.Errorf("%d stale faults", n)
	}
}

// TestTrueFaultReachesTheKernel has a page that is writable all along and faults
// all the same: the kernel must get to see that.
func TestTrueFaultReachesTheKernel(t *testing.T) {
	host := newFakeHost(modelPages)
	tr := host.tracker(Options{})
	mm := newFakeMM(tr)
	mm.mapPages(0, host.main, 0, 16, hostarch.ReadWrite)
	// The host loses the mapping behind our back.
	mm.space.(*addressSpace).AddressSpace.Unmap(0, 16*pageSize)
	for _, arm := range []bool{false, true} {
		if arm {
			mm.mapPages(0, host.main, 0, 16, hostarch.Read)
			if _, err := tr.Arm(); err != nil {
				t.Fatal(err)
			}
		}
		a := mm.space.(*addressSpace)
		if v := a.fault(3*pageSize, a.generation.Load()); v != faultOfKernel {
			t.Errorf("armed %v: verdict %d", arm, v)
		}
	}
}

func TestPrewarm(t *testing.T) {
	host := newFakeHost(1)
	tr := host.tracker(Options{})
	if err := tr.Prewarm(3); err != nil {
		t.Fatal(err)
	}
	space, err := tr.NewAddressSpace()
	if err != nil || host.created.Load() != 3 {
		t.Fatalf("%d spaces created: %v", host.created.Load(), err)
	}
	// Those in use count too.
	if err := tr.Prewarm(3); err != nil || host.created.Load() != 3 {
		t.Fatalf("%d spaces created: %v", host.created.Load(), err)
	}
	left := tr.pool[0].(*fakeSpace)
	tr.DropPrewarmed()
	if used := space.(*addressSpace).AddressSpace.(*fakeSpace); !left.released || used.released {
		t.Errorf("released: unused %v, used %v", left.released, used.released)
	}
	if _, err := tr.NewAddressSpace(); err != nil || host.created.Load() != 4 {
		t.Errorf("%d spaces created: %v", host.created.Load(), err)
	}
}

func TestMisuse(t *testing.T) {
	if _, err := Wrap(newFakeHost(1), Options{}).NewAddressSpace(); err != ErrNoMemoryFile {
		t.Errorf("without a memory file: %v", err)
	}
	tr := newFakeHost(1).tracker(Options{})
	if _, _, err := tr.Collect(); err != ErrNotArmed {
		t.Errorf("collect before arm: %v", err)
	}
	if _, err := tr.Arm(); err != nil {
		t.Error(err)
	}
	if _, err := tr.Arm(); err != ErrArmed {
		t.Errorf("arm twice: %v", err)
	}
	if _, _, err := tr.CollectLast(); err != nil {
		t.Error(err)
	}
	if _, _, err := tr.Collect(); err != ErrNotArmed {
		t.Errorf("collect after the last: %v", err)
	}
	if err := tr.Disarm(); err != nil {
		t.Error(err)
	}
	if err := tr.Disarm(); err != nil {
		t.Errorf("disarm twice: %v", err)
	}
}
