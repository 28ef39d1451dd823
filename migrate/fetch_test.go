package migrate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// fakeKernel is a kernel whose pages are fetched: a test gives what it waits for, and hears of what has come.
type fakeKernel struct {
	t      *testing.T
	memory *os.File
	needs  chan []image.Run // closed: the kernel is gone
	faults chan uint64
	loaded chan struct{} // closed: it has everything

	unreachable error         // of Placed
	full        *pages.Set    // pages that there is no memory for; nil: none
	unmapped    chan struct{} // Mapped waits until it is closed; nil: for nothing
	frozen      chan struct{} // so does Placed

	mu      sync.Mutex
	placed  *pages.Set // guarded by mu, as is all below: what Placed has named
	filled  *pages.Set
	closed  bool
	changed sync.Cond // its lock is mu
}

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{
		t: t, memory: testMemory(t), needs: make(chan []image.Run), faults: make(chan uint64), loaded: make(chan struct{}),
		placed: &pages.Set{}, filled: &pages.Set{},
	}
	k.changed.L = &k.mu
	return k
}

func (k *fakeKernel) Next() ([]image.Run, error) {
	select {
	case need, ok := <-k.needs:
		if !ok {
			return nil, io.EOF
		}
		return need, nil
	case <-k.loaded:
		return nil, checkpoint.ErrAllLoaded
	}
}

func (k *fakeKernel) NextFaults() ([]uint64, error) {
	select {
	case page := <-k.faults:
		return []uint64{page}, nil
	case <-k.loaded:
		return nil, io.EOF
	}
}

func (k *fakeKernel) Mapped() error {
	if k.unmapped != nil {
		<-k.unmapped
	}
	return nil
}

// Place implements kernelPager. As the real one, it writes nothing for zeros.
func (k *fakeKernel) Place(first, count uint64, data []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for page := first; page < first+count; page++ {
		if k.placed.Has(page) {
			k.t.Errorf("page %d is placed twice", page)
		}
		if k.full != nil && k.full.Has(page) {
			return fmt.Errorf("page %d: %w", page, unix.ENOMEM)
		}
	}
	_, err := k.memory.WriteAt(data, int64(first*pages.PageSize))
	return err
}

func (k *fakeKernel) Placed(runs []image.Run) error {
	if k.frozen != nil {
		<-k.frozen
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unreachable != nil {
		return k.unreachable
	}
	for _, r := range runs {
		k.placed.AddRange(r.First, r.First+r.Count)
	}
	k.changed.Broadcast()
	return nil
}

func (k *fakeKernel) Fill(page uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.filled.Add(page)
	k.changed.Broadcast()
	return nil
}

func (k *fakeKernel) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

func (k *fakeKernel) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

// has says whether pages [start, end) are in their place.
func (k *fakeKernel) has(start, end uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for page := start; page < end; page++ {
		if !k.placed.Has(page) {
			return false
		}
	}
	return true
}

// ask waits for pages, as a task does.
func (k *fakeKernel) ask(first, count uint64) {
	k.needs <- []image.Run{{First: first, Count: count}}
	eventually(k.t, func() bool { return k.has(first, first+count) })
}

// fills waits until a hole is filled.
func (k *fakeKernel) fills(page uint64) {
	eventually(k.t, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.filled.Has(page)
	})
}

func setOfRange(start, end uint64) *pages.Set {
	set := &pages.Set{}
	set.AddRange(start, end)
	return set
}

// recordOf is a page record of pages that are filled with a byte, or zero.
func recordOf(page, count uint64, fill byte) wire.PageRecord {
	if fill == 0 {
		return wire.PageRecord{Kind: wire.RecordZero, Page: page, Count: count}
	}
	return wire.PageRecord{Kind: wire.RecordData, Page: page, Count: count, Data: bytes.Repeat([]byte{fill}, int(count)*pages.PageSize)}
}

func pageOf(t *testing.T, f *os.File, page uint64) []byte {
	t.Helper()
	b := make([]byte, pages.PageSize)
	if _, err := f.ReadAt(b, int64(page*pages.PageSize)); err != nil {
		t.Fatal(err)
	}
	return b
}

func wantFill(t *testing.T, f *os.File, page uint64, fill byte, why string) {
	t.Helper()
	if !bytes.Equal(pageOf(t, f, page), bytes.Repeat([]byte{fill}, pages.PageSize)) {
		t.Errorf("page %d is not all %d: %s", page, fill, why)
	}
}

// Once a page was placed it is the guest's: what comes again, asked for twice or late on a lost connection, changes nothing.
func TestFetchNeverOverwritesWhatTheGuestHas(t *testing.T) {
	k := newFakeKernel(t)
	f := newFetch(k, setOfRange(10, 20))
	askFor(f, 10, 2)
	if err := f.place([]wire.PageRecord{recordOf(10, 2, 1)}); err != nil {
		t.Fatal(err)
	}
	if !k.has(10, 12) {
		t.Fatal("the kernel was not told of what came")
	}
	wantFill(t, k.memory, 10, 1, "it was asked for and came")
	wantFill(t, k.memory, 11, 1, "it was asked for and came")

	guest := bytes.Repeat([]byte{9}, pages.PageSize)
	if _, err := k.memory.WriteAt(guest, 10*pages.PageSize); err != nil {
		t.Fatal(err)
	}
	for _, again := range []wire.PageRecord{recordOf(10, 1, 1), recordOf(10, 1, 0), recordOf(9, 4, 1)} {
		if err := f.place([]wire.PageRecord{again}); err != nil {
			t.Fatal(err)
		}
	}
	wantFill(t, k.memory, 10, 9, "the guest wrote it, and the page came again")
	wantFill(t, k.memory, 9, 0, "it was never missing")
	wantFill(t, k.memory, 12, 0, "nobody asked for it")
}

// An access of the kernel to a page that is not there brings that page first. One that came as zeros, or was never missing,
// becomes a page of zeros.
func TestFetchAnswersFaults(t *testing.T) {
	k := newFakeKernel(t)
	r := &fetchRoad{t: t, source: testMemory(t)}
	if _, err := r.source.WriteAt(bytes.Repeat([]byte{7}, pages.PageSize), 35*pages.PageSize); err != nil {
		t.Fatal(err)
	}
	r.fetch = newFetch(k, setOfRange(0, 64))
	// It was not started: nothing is asked for that nobody waits for.
	r.connect(1)
	k.faults <- 35
	eventually(t, func() bool { return k.has(35, 36) })
	wantFill(t, k.memory, 35, 7, "the kernel waits for it")
	eventually(t, func() bool { return k.has(32, 36) }) // what is beside it comes along
	for _, page := range []uint64{200, 36, 3} {         // never missing, came as zeros, comes as zeros
		k.faults <- page
		k.fills(page)
	}
	close(k.loaded)
}

// askFor does as if pages had been asked of the source.
func askFor(f *fetch, first, count uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan.ask(wire.Range{Page: first, Count: count})
}

// fetchRoad joins a fetch to a server over connections that can be lost.
type fetchRoad struct {
	t      *testing.T
	source *os.File
	fetch  *fetch
	conns  []net.Conn
	server *server
}

func (r *fetchRoad) connect(count int) {
	r.t.Helper()
	var sources, targets []net.Conn
	for range count {
		a, b := loopback(r.t)
		sources, targets = append(sources, a), append(targets, b)
	}
	l, err := newLanes(r.t.Context(), sources, wire.CodecAuto, wire.NewPace(0))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.server, err = serve(r.source, l); err != nil {
		r.t.Fatal(err)
	}
	for _, conn := range targets {
		go r.fetch.lane(conn)
	}
	if err := r.fetch.attach(targets); err != nil {
		r.t.Fatal(err)
	}
	r.conns = append(sources, targets...)
}

func (r *fetchRoad) cut() {
	for _, conn := range r.conns {
		conn.Close()
	}
}

// loopback is a connection with buffers of its own, as a real one.
func loopback(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// Memory arrives as it is, over one connection or several that are lost again and again, while a guest reads and writes
// what it has; and both sides agree on what was sent.
func TestFetchOverLostConnections(t *testing.T) {
	for _, lanes := range []int{1, 3} {
		rng := rand.New(rand.NewPCG(uint64(lanes), 11))
		k := newFakeKernel(t)
		r := &fetchRoad{t: t, source: testMemory(t)}
		for range 30 {
			change(t, rng, r.source)
		}
		want := contentOf(t, r.source)
		r.fetch = newFetch(k, setOfRange(0, testPages))
		r.fetch.begin()
		r.connect(lanes)
		starts := make([]uint64, 0, testPages/16+1)
		for start := uint64(0); start < testPages; start += 16 {
			starts = append(starts, start)
		}
		rng.Shuffle(len(starts), func(i, j int) { starts[i], starts[j] = starts[j], starts[i] })
		written := make(map[uint64]bool)
		for i, start := range starts {
			if i%20 == 10 {
				r.cut()
				r.connect(lanes)
			}
			k.ask(start, min(16, testPages-start))
			if got := pageOf(t, k.memory, start); !bytes.Equal(got, want[start*pages.PageSize:][:pages.PageSize]) {
				t.Fatalf("%d connections: page %d was answered, and is another", lanes, start)
			}
			if i%3 == 0 {
				written[start] = true
				if _, err := k.memory.WriteAt(bytes.Repeat([]byte{9}, pages.PageSize), int64(start*pages.PageSize)); err != nil {
					t.Fatal(err)
				}
			}
		}
		close(k.loaded)
		<-r.fetch.over
		if r.fetch.err != nil {
			t.Fatal(r.fetch.err)
		}
		for page := uint64(0); page < testPages; page++ {
			wanted := want[page*pages.PageSize:][:pages.PageSize]
			if written[page] {
				wanted = bytes.Repeat([]byte{9}, pages.PageSize)
			}
			if !bytes.Equal(pageOf(t, k.memory, page), wanted) {
				t.Fatalf("%d connections: page %d is wrong in the end", lanes, page)
			}
		}
	}
}

// A page that changed on the way, whatever did that, is noticed before the source's copy is given up.
func TestFetchComparesWhatCame(t *testing.T) {
	k := newFakeKernel(t)
	r := &fetchRoad{t: t, source: testMemory(t)}
	r.fetch = newFetch(k, setOfRange(0, 32))
	askFor(r.fetch, 3, 1)
	if err := r.fetch.place([]wire.PageRecord{recordOf(3, 1, 7)}); err != nil { // the source has zeros there
		t.Fatal(err)
	}
	r.connect(2)
	k.ask(0, 32)
	close(k.loaded)
	<-r.fetch.over
	if !errors.Is(r.fetch.err, errSumDiffers) {
		t.Fatalf("a wrong page was not noticed: %v", r.fetch.err)
	}
}

// What was on its way when the guest freed it is not compared: the list of what came has been sent.
func TestFetchComparesNothingThatCameTooLate(t *testing.T) {
	k := newFakeKernel(t)
	f := newFetch(k, setOfRange(0, 32))
	askFor(f, 0, 32)
	if err := f.place([]wire.PageRecord{recordOf(0, 8, 7)}); err != nil {
		t.Fatal(err)
	}
	listed := f.sum.Digest()
	close(k.loaded)
	eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.loaded })
	if err := f.place([]wire.PageRecord{recordOf(8, 8, 7)}); err != nil {
		t.Fatal(err)
	}
	if err := f.compare(listed); err != nil {
		t.Fatal(err)
	}
	if <-f.over; f.err != nil {
		t.Fatal(f.err)
	}
}

// A kernel that ends before it has its memory ends the fetch, which is no success.
func TestFetchOfAKernelThatEnds(t *testing.T) {
	k := newFakeKernel(t)
	f := newFetch(k, setOfRange(0, 32))
	close(k.needs)
	<-f.over
	if !errors.Is(f.err, errKernelGone) {
		t.Fatal(f.err)
	}
	eventually(t, k.isClosed)
}

// So does one that ends between its request and the answer.
func TestFetchOfAKernelThatEndsUnanswered(t *testing.T) {
	k := newFakeKernel(t)
	f := newFetch(k, setOfRange(0, 32))
	k.unreachable = syscall.EPIPE
	k.needs <- []image.Run{{First: 0, Count: 1}}
	askFor(f, 0, 1)
	if err := f.place([]wire.PageRecord{recordOf(0, 1, 7)}); err != nil {
		t.Fatal(err)
	}
	close(k.needs)
	<-f.over
	if !errors.Is(f.err, errKernelGone) {
		t.Fatal(f.err)
	}
}

// What was placed before a page that cannot be, in its frame, is said to the kernel: a fetch that comes after and cannot place that page
// either has brought nothing, so that somebody is told in the end. Pages that the kernel was not told of come again each time.
func TestFetchSaysWhatCameBeforeAnError(t *testing.T) {
	for name, c := range map[string]struct {
		unreachable error
		said        uint64
		brought     []bool // by each fetch
	}{
		"told":     {nil, 4, []bool{true, false, false}},
		"not told": {syscall.EPIPE, 0, []bool{false, false, false}},
	} {
		k := newFakeKernel(t)
		k.full, k.unreachable = setOfRange(8, 9), c.unreachable
		missing := setOfRange(0, 16)
		for i, brought := range c.brought {
			f := newFetch(k, missing)
			askFor(f, 0, 16)
			if err := f.place([]wire.PageRecord{recordOf(0, 4, 7), recordOf(8, 1, 7)}); !errors.Is(err, unix.ENOMEM) || !f.isOver() || !errors.Is(f.err, err) {
				t.Fatalf("%s: page 8 was placed without memory: %v", name, err)
			}
			if k.placed.Count() != c.said || f.brought() != brought {
				t.Errorf("%s, fetch %d: the kernel knows of %d pages and fetching got on: %v; want %d, %v", name, i, k.placed.Count(), f.brought(), c.said, brought)
			}
			missing = setOfRange(0, 16) // as AttachPager says
			for start, end := range k.placed.Ranges() {
				missing.RemoveRange(start, end)
			}
		}
	}
}

// After a page that could not be placed none is, while the kernel is told of those before it: some may be in their place without anybody
// knowing.
func TestFetchPlacesNothingAfterAnError(t *testing.T) {
	k := newFakeKernel(t)
	k.full, k.frozen = setOfRange(8, 9), make(chan struct{})
	f := newFetch(k, setOfRange(0, 16))
	askFor(f, 0, 16)
	placed := make(chan error)
	go func() { placed <- f.place([]wire.PageRecord{recordOf(0, 4, 7), recordOf(8, 1, 7)}) }()
	eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.came.Count() == 4 })
	if err := f.place([]wire.PageRecord{recordOf(8, 1, 7)}); err != nil || f.isOver() {
		t.Errorf("while the kernel is told, another page comes to %v", err)
	}
	close(k.frozen)
	if err := <-placed; !errors.Is(err, unix.ENOMEM) || !f.isOver() {
		t.Errorf("page 8 was placed without memory: %v", err)
	}
}

// What a kernel says is heard while pages wait for it: for where its memory is mapped, which is what it says, and for it to read.
func TestFetchListensWhileItWaits(t *testing.T) {
	for name, wait := range map[string]func(*fakeKernel) chan struct{}{
		"mapping": func(k *fakeKernel) chan struct{} { k.unmapped = make(chan struct{}); return k.unmapped },
		"reading": func(k *fakeKernel) chan struct{} { k.frozen = make(chan struct{}); return k.frozen },
	} {
		k := newFakeKernel(t)
		over := wait(k)
		f := newFetch(k, setOfRange(0, 32))
		askFor(f, 0, 1)
		placed := make(chan error)
		go func() { placed <- f.place([]wire.PageRecord{recordOf(0, 1, 7)}) }()
		for range 2 { // the second is taken when the first has been dealt with
			select {
			case k.needs <- []image.Run{{First: 8, Count: 1}}:
			case <-time.After(time.Minute):
				t.Fatalf("%s: the kernel is not heard while a page waits", name)
			}
		}
		close(over)
		if err := <-placed; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What makes no sense in post-copy ends the connection.
func TestFetchRefuses(t *testing.T) {
	for name, fr := range map[string]wire.Frame{
		"beyond what is missing": {Type: wire.TypePages, Payload: append([]byte{2, 0, 0, 0, 1, 0, 0, 0}, 0, 0, 1, 0, 0, 0, 0, 0)},
		"another memory file":    {Type: wire.TypePages, Stream: 1},
		"a duplicate":            {Type: wire.TypePages, Payload: append([]byte{3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0}, 7, 0, 0, 0, 0, 0, 0, 0)},
		"a punch":                {Type: wire.TypePunch, Payload: wire.AppendRanges(nil, []wire.Range{{Page: 1, Count: 1}})},
		"kernel state":           {Type: wire.TypeState, Payload: []byte("state")},
		"a sum unasked":          {Type: wire.TypeSum, Payload: make([]byte, 32)},
		"half a sum":             {Type: wire.TypeSum, Payload: make([]byte, 8)},
	} {
		f := newFetch(newFakeKernel(t), setOfRange(0, 32))
		if err := f.frame(fr); err == nil {
			t.Errorf("%s was taken", name)
		}
		if f.left() != 32 {
			t.Errorf("%s: something was applied", name)
		}
	}
}

// What the kernel asks for goes first, the newest before the others, then what follows its newest requests, then the lowest; and never the same page twice.
func TestFetchPlanOrder(t *testing.T) {
	missing := setOfRange(0, 4000)
	p := newFetchPlan()
	now := time.Now()
	p.window, p.began = maxAheadPages, now.Add(-haste)
	for _, first := range []uint64{1000, 2000} {
		p.wanted([]image.Run{{First: first, Count: 16}}, missing, now)
	}
	for _, want := range []wire.Range{{Page: 2000, Count: 16}, {Page: 1000, Count: 16}} {
		if got := p.nextUrgent(missing, now); len(got) != 1 || got[0] != want {
			t.Fatalf("urgent: %v, want %v", got, want)
		}
	}
	asked := &pages.Set{}
	asked.AddRange(1000, 1016)
	asked.AddRange(2000, 2016)
	var firsts []uint64
	for {
		r, ok := p.nextAhead(missing, now)
		if !ok {
			break
		}
		firsts = append(firsts, r.Page)
		for page := r.Page; page < r.End(); page++ {
			if asked.Has(page) {
				t.Fatalf("page %d is asked for twice", page)
			}
			asked.Add(page)
		}
	}
	want := []uint64{2016, 2048, 1016, 1048, 0, 32}
	for i, page := range want {
		if firsts[i] != page {
			t.Fatalf("ahead: %v, want %v first", firsts[:len(want)], want)
		}
	}
	if asked.Count() != 4000 {
		t.Errorf("%d of 4000 pages are asked for", asked.Count())
	}
}

// More is asked for than somebody waits for where that is far away, and where one need follows another.
func TestFetchPlanWidens(t *testing.T) {
	missing := setOfRange(0, 4000)
	p := newFetchPlan()
	p.wanted([]image.Run{{First: 100, Count: 4}}, missing, time.Now())
	widen := func(first, count uint64, want ...image.Run) {
		t.Helper()
		if got := p.widen([]image.Run{{First: first, Count: count}}); !slices.Equal(got, want) {
			t.Errorf("%d pages from %d on are widened to %v, want %v", count, first, got, want)
		}
	}
	widen(200, 4, image.Run{First: 200, Count: 4})
	widen(104, 4, image.Run{First: 104, Count: widePages})
	p.best = farAway
	widen(200, 4, image.Run{First: 200, Count: 8}, image.Run{First: 192, Count: 8})
	widen(206, 4, image.Run{First: 206, Count: 4}, image.Run{First: 192, Count: 14})
	widen(208, 4, image.Run{First: 208, Count: widePages})
	widen(200, 32, image.Run{First: 200, Count: 32})
}

// Two needs next to each other are widened to the same pages. These are asked for once, and fly once: else what never comes a second time
// would fly for ever, and nothing be asked for ahead any more.
func TestFetchPlanAsksOnce(t *testing.T) {
	missing := setOfRange(0, 4000)
	p := newFetchPlan()
	p.best = farAway
	p.wanted(p.widen([]image.Run{{First: 200, Count: 4}, {First: 204, Count: 4}}), missing, time.Now())
	asked := &pages.Set{}
	for _, r := range p.nextUrgent(missing, time.Now()) {
		for page := r.Page; page < r.End(); page++ {
			if asked.Has(page) {
				t.Errorf("page %d is asked for twice", page)
			}
			asked.Add(page)
		}
	}
	if p.flying != asked.Count() || asked.Count() != widePages {
		t.Errorf("%d pages fly of %d that are asked for, want %d", p.flying, asked.Count(), uint64(widePages))
	}
	for start, end := range asked.Ranges() {
		p.came(start, end, time.Now())
	}
	if p.flying != 0 {
		t.Errorf("%d pages fly that have come", p.flying)
	}
}

// The oldest need has its turn, however many newer ones there are.
func TestFetchPlanStarvesNobody(t *testing.T) {
	missing := setOfRange(0, 4000)
	p := newFetchPlan()
	p.wanted([]image.Run{{First: 0, Count: 1}}, missing, time.Now())
	for newer := uint64(1); newer <= oldestTurn; newer++ {
		p.wanted([]image.Run{{First: newer * 100, Count: 1}}, missing, time.Now())
		if got := p.nextUrgent(missing, time.Now()); got[0].Page == 0 {
			return
		}
	}
	t.Error("the oldest need never had its turn")
}

// More is asked for ahead as long as that comes at once, and less when it queues.
func TestFetchPlanWindow(t *testing.T) {
	missing := setOfRange(0, 1<<20)
	p := newFetchPlan()
	now := time.Now()
	p.began = now.Add(-haste)
	turn := func(took time.Duration) {
		r, ok := p.nextAhead(missing, now)
		if !ok {
			t.Fatal("nothing may fly")
		}
		missing.RemoveRange(r.Page, r.End())
		p.came(r.Page, r.End(), now.Add(took))
	}
	for range 20 {
		turn(time.Millisecond)
	}
	wide := p.window
	if wide <= 10*chunkPages {
		t.Errorf("the window did not grow: %d pages", wide)
	}
	for range 20 {
		turn(time.Second)
	}
	if p.window >= wide/4 {
		t.Errorf("the window did not shrink: %d pages, before %d", p.window, wide)
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
	}
}
