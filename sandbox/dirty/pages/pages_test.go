package pages

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSetAgainstModel compares a Set with a map after random operations.
func TestSetAgainstModel(t *testing.T) {
	const limit = 1000
	rng := rand.New(rand.NewPCG(1, 2))
	set, model := &Set{}, map[uint64]bool{}
	randomRange := func() (uint64, uint64) {
		start := rng.Uint64N(limit)
		return start, min(limit, start+rng.Uint64N(200))
	}
	for step := range 3000 {
		start, end := randomRange()
		other := &Set{}
		other.AddRange(start, end)
		s2, e2 := randomRange()
		other.AddRange(s2, e2)
		in := func(p uint64) bool { return p >= start && p < end || p >= s2 && p < e2 }
		switch rng.IntN(7) {
		case 0:
			set.AddRange(start, end)
			for p := start; p < end; p++ {
				model[p] = true
			}
		case 1:
			set.RemoveRange(start, end)
			for p := start; p < end; p++ {
				delete(model, p)
			}
		case 2:
			set.Add(start)
			model[start] = true
		case 3:
			set.Union(other)
			for p := range uint64(limit) {
				if in(p) {
					model[p] = true
				}
			}
		case 4:
			set.Subtract(other)
			for p := range model {
				if in(p) {
					delete(model, p)
				}
			}
		case 5:
			if rng.IntN(4) == 0 {
				set.Intersect(other)
				for p := range model {
					if !in(p) {
						delete(model, p)
					}
				}
			}
		case 6:
			if rng.IntN(20) == 0 {
				taken := set.Take()
				if taken.Count() != uint64(len(model)) || !set.Empty() {
					t.Fatalf("step %d: took %d of %d pages, left %d", step, taken.Count(), len(model), set.Count())
				}
				clear(model)
			}
		}
		checkSet(t, step, set, model)
	}
}

func checkSet(t *testing.T, step int, set *Set, model map[uint64]bool) {
	t.Helper()
	if got := set.Count(); got != uint64(len(model)) {
		t.Fatalf("step %d: %d pages, want %d", step, got, len(model))
	}
	last := uint64(0)
	for start, end := range set.Ranges() {
		if start >= end || last > 0 && start <= last {
			t.Fatalf("step %d: run [%d, %d) after %d", step, start, end, last)
		}
		for p := start; p < end; p++ {
			if !model[p] || !set.Has(p) {
				t.Fatalf("step %d: page %d is not in the model", step, p)
			}
		}
		last = end
	}
	if !set.Equal(set.Clone()) {
		t.Fatalf("step %d: differs from its clone", step)
	}
}

func TestSetRangesWithin(t *testing.T) {
	set := &Set{}
	set.AddRange(10, 200)
	set.Add(300)
	var got []uint64
	for start, end := range set.RangesWithin(64, 301) {
		got = append(got, start, end)
	}
	if want := []uint64{64, 200, 300, 301}; !slices.Equal(got, want) {
		t.Errorf("runs are %v, want %v", got, want)
	}
}

func TestSetRefusesPagesBeyondTheLimit(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a page beyond the limit was added")
		}
	}()
	(&Set{}).Add(MaxPages)
}

// memoryFile is a memfd of the given pages.
func memoryFile(t testing.TB, pageCount uint64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("pages-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, int64(pageCount*PageSize)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func fill(t testing.TB, fd int, start, end uint64, value byte) {
	t.Helper()
	data := bytes.Repeat([]byte{value}, PageSize)
	for p := start; p < end; p++ {
		if _, err := unix.Pwrite(fd, data, int64(p*PageSize)); err != nil {
			t.Fatal(err)
		}
	}
}

func punch(t testing.TB, fd int, start, end uint64) {
	t.Helper()
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(start*PageSize), int64((end-start)*PageSize)); err != nil {
		t.Fatal(err)
	}
}

func setOf(runs ...uint64) *Set {
	s := &Set{}
	for i := 0; i < len(runs); i += 2 {
		s.AddRange(runs[i], runs[i+1])
	}
	return s
}

func TestCommitted(t *testing.T) {
	fd := memoryFile(t, 10000)
	fill(t, fd, 3, 5, 1)
	fill(t, fd, 9000, 10000, 0) // zeros are data too
	punch(t, fd, 9500, 9600)
	got, err := Committed(fd, 10000*PageSize)
	if err != nil {
		t.Fatal(err)
	}
	if want := setOf(3, 5, 9000, 9500, 9600, 10000); !got.Equal(want) {
		t.Errorf("%d pages are committed, want %d", got.Count(), want.Count())
	}
	// Beyond the given size, and in the middle of a run.
	got, err = Committed(fd, 9100*PageSize)
	if err != nil || !got.Equal(setOf(3, 5, 9000, 9100)) {
		t.Errorf("cut at page 9100: %d pages, %v", got.Count(), err)
	}
	got, err = CommittedAmong(fd, setOf(4, 9001, 9400, 9601))
	if err != nil || !got.Equal(setOf(4, 5, 9000, 9001, 9400, 9500, 9600, 9601)) {
		t.Errorf("among others: %d pages, %v", got.Count(), err)
	}
	for _, c := range [][3]uint64{{0, 10000, 3}, {4, 10000, 4}, {5, 8000, 8000}, {5, 10000, 9000}, {9500, 20000, 9600}, {10000, 20000, 20000}} {
		if got, err := NextCommitted(fd, c[0], c[1]); got != c[2] || err != nil {
			t.Errorf("next in [%d, %d) is %d, want %d: %v", c[0], c[1], got, c[2], err)
		}
	}
}

// receiver applies what a Scanner emits, as the other side would.
type receiver struct {
	mu    sync.Mutex
	pages map[uint64][]byte
}

func (r *receiver) visit(first uint64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 0; i < len(data); i += PageSize {
		r.pages[first+uint64(i/PageSize)] = slices.Clone(data[i : i+PageSize])
	}
	return nil
}

func (r *receiver) check(t *testing.T, fd int, pageCount uint64) {
	t.Helper()
	buf, zero := make([]byte, PageSize), make([]byte, PageSize)
	for p := range pageCount {
		if err := readFull(fd, buf, p); err != nil {
			t.Fatal(err)
		}
		want := r.pages[p]
		if want == nil {
			want = zero
		}
		if !bytes.Equal(buf, want) {
			t.Fatalf("page %d differs on the other side", p)
		}
	}
}

func TestScannerRounds(t *testing.T) {
	const count = 3 * stripePages / 2
	for _, workers := range []int{1, 3} {
		fd := memoryFile(t, count)
		s := NewScanner(ScanOptions{Workers: workers})
		r := &receiver{pages: map[uint64][]byte{}}
		round := func(only, changed, freed *Set) {
			t.Helper()
			got, err := s.Round(context.Background(), fd, count*PageSize, only, r.visit)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Changed.Equal(changed) || !got.Freed.Equal(freed) {
				t.Fatalf("%d pages changed and %d were freed, want %d and %d",
					got.Changed.Count(), got.Freed.Count(), changed.Count(), freed.Count())
			}
			for start, end := range got.Freed.Ranges() {
				for p := start; p < end; p++ {
					delete(r.pages, p)
				}
			}
		}
		none := &Set{}
		fill(t, fd, 10, 300, 1)
		fill(t, fd, stripePages-2, stripePages+2, 2)
		round(nil, setOf(10, 300, stripePages-2, stripePages+2), none)
		round(nil, none, none)
		fill(t, fd, 20, 22, 3)
		fill(t, fd, 30, 32, 1) // written, and the same as before
		punch(t, fd, 100, 200)
		punch(t, fd, stripePages-1, stripePages+1)
		round(nil, setOf(20, 22), setOf(100, 200, stripePages-1, stripePages+1))
		r.check(t, fd, count)

		fill(t, fd, 40, 60, 4)
		fill(t, fd, 150, 151, 5)
		round(setOf(45, 50, 140, 160), setOf(45, 50, 150, 151), none)
		round(nil, setOf(40, 45, 50, 60), none)
		r.check(t, fd, count)
	}
}

// A hole among pages that are known to be in use is a page of zeros: it is sent as one, once.
func TestScannerRoundOf(t *testing.T) {
	const count = 100
	fd := memoryFile(t, count)
	s := NewScanner(ScanOptions{})
	r := &receiver{pages: map[uint64][]byte{}}
	round := func(inUse, changed *Set) {
		t.Helper()
		got, err := s.RoundOf(context.Background(), fd, count*PageSize, inUse, r.visit)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Changed.Equal(changed) || !got.Freed.Empty() {
			t.Fatalf("%d pages changed and %d were freed, want %d and none", got.Changed.Count(), got.Freed.Count(), changed.Count())
		}
	}
	fill(t, fd, 10, 30, 1)
	round(setOf(0, 50), setOf(0, 50))
	round(setOf(0, 50), &Set{})
	fill(t, fd, 60, 61, 2) // not in use
	punch(t, fd, 15, 20)
	round(setOf(10, 20), setOf(15, 20))
	for page := uint64(15); page < 20; page++ {
		if !bytes.Equal(r.pages[page], make([]byte, PageSize)) {
			t.Fatalf("page %d was not sent as zeros", page)
		}
	}
}

func TestScannerStopsOnError(t *testing.T) {
	fd := memoryFile(t, 100)
	fill(t, fd, 0, 100, 1)
	broken := errors.New("broken")
	_, err := NewScanner(ScanOptions{}).Round(context.Background(), fd, 100*PageSize, nil, func(uint64, []byte) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewScanner(ScanOptions{}).Round(ctx, fd, 100*PageSize, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestAudit(t *testing.T) {
	const count = 5000
	fd := memoryFile(t, count)
	fill(t, fd, 0, 100, 1)
	s := NewScanner(ScanOptions{})
	if _, err := s.Round(context.Background(), fd, count*PageSize, nil, nil); err != nil {
		t.Fatal(err)
	}
	fill(t, fd, 200, 210, 0) // zeros that the other side has as a hole
	punch(t, fd, 50, 60)     // a hole that the other side punches at the end
	got, err := Audit(fd, count*PageSize, &s.Table)
	if err != nil || !got.Missed.Empty() || got.PagesChecked != 100 || !got.Stale.Equal(setOf(50, 60)) {
		t.Fatalf("missed %d of %d pages, %d stale: %v", got.Missed.Count(), got.PagesChecked, got.Stale.Count(), err)
	}
	fill(t, fd, 7, 8, 9)       // changed
	fill(t, fd, 4500, 4501, 9) // never sent
	fill(t, fd, 55, 56, 0)     // freed, used again, and zero now
	got, err = Audit(fd, count*PageSize, &s.Table)
	if err != nil || !got.Missed.Equal(setOf(7, 8, 55, 56, 4500, 4501)) {
		t.Fatalf("missed %d pages: %v", got.Missed.Count(), err)
	}
}

func BenchmarkScanRound(b *testing.B) {
	const count = (256 << 20) / PageSize
	fd := memoryFile(b, count)
	data := make([]byte, PageSize)
	for p := range uint64(count) {
		data[0], data[1] = byte(p), byte(p>>8)
		if _, err := unix.Pwrite(fd, data, int64(p*PageSize)); err != nil {
			b.Fatal(err)
		}
	}
	s := NewScanner(ScanOptions{})
	b.SetBytes(count * PageSize)
	for b.Loop() {
		if _, err := s.Round(context.Background(), fd, count*PageSize, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHashPage(b *testing.B) {
	page := make([]byte, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		HashPage(page)
	}
}

func BenchmarkSetRanges64GiB(b *testing.B) {
	s := NewSet((64 << 30) / PageSize)
	for p := uint64(0); p < (64<<30)/PageSize; p += 5000 {
		s.AddRange(p, p+20)
	}
	for b.Loop() {
		n := uint64(0)
		for start, end := range s.Ranges() {
			n += end - start
		}
		if n == 0 {
			b.Fatal("no pages")
		}
	}
}
