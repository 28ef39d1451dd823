package image

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// A location is where a writer has put a page: pack number plus one in the upper half, number of the page in that pack in
// the lower half.
type location uint64

const (
	nowhere  location = 0
	zeroHere location = 1 // committed, all zeros
)

func makeLocation(pack, page uint32) location { return location(pack+1)<<32 | location(page) }

func (l location) stored() bool { return l > zeroHere }
func (l location) pack() uint32 { return uint32(l>>32) - 1 }
func (l location) page() uint32 { return uint32(l) }

const leafPages = 4096

type leaf [leafPages]location

// A pageTable has the location of each page of one memory file.
type pageTable struct {
	mu     sync.Mutex
	leaves map[uint64]*leaf // by page / leafPages
}

func newPageTable() *pageTable { return &pageTable{leaves: map[uint64]*leaf{}} }

// set replaces the locations of consecutive pages.
func (t *pageTable) set(first uint64, locations []location) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(locations) > 0 {
		l := t.leaves[first/leafPages]
		if l == nil {
			l = new(leaf)
			t.leaves[first/leafPages] = l
		}
		n := copy(l[first%leafPages:], locations)
		first += uint64(n)
		locations = locations[n:]
	}
}

// drop forgets pages. Its time depends on what there is, not on how many pages the run has.
func (t *pageTable) drop(run Run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for number, l := range t.leaves {
		from, to := number*leafPages, (number+1)*leafPages
		if from >= run.First && to <= run.end() {
			delete(t.leaves, number)
			continue
		}
		if from, to = max(from, run.First), min(to, run.end()); from < to {
			clear(l[from%leafPages : (to-1)%leafPages+1])
		}
	}
}

// each calls visit with every page that the table has, in rising order.
func (t *pageTable) each(visit func(page uint64, at location)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(t.leaves)) {
		for i, at := range t.leaves[number] {
			if at != nowhere {
				visit(number*leafPages+uint64(i), at)
			}
		}
	}
}

// keep drops all pages that are not in runs, and says which page of runs the table does not have, if any.
func (t *pageTable) keep(runs []Run) (missing uint64, complete bool) {
	next := uint64(0)
	for _, run := range runs {
		t.drop(Run{First: next, Count: run.First - next})
		next = run.end()
	}
	t.drop(Run{First: next, Count: MaxFilePages - next})
	for _, run := range runs {
		if page, ok := t.firstMissing(run); ok {
			return page, false
		}
	}
	return 0, true
}

func (t *pageTable) firstMissing(run Run) (page uint64, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for page := run.First; page < run.end(); page++ {
		if l := t.leaves[page/leafPages]; l == nil || l[page%leafPages] == nowhere {
			return page, true
		}
	}
	return 0, false
}

// normalise sorts runs and joins those that touch or overlap.
func normalise(runs []Run) []Run {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	var out []Run
	for _, run := range sorted {
		if run.Count == 0 {
			continue
		}
		if n := len(out); n > 0 && run.First <= out[n-1].end() {
			out[n-1].Count = max(out[n-1].end(), run.end()) - out[n-1].First
			continue
		}
		out = append(out, run)
	}
	return out
}
