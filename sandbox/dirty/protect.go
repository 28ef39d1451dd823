package dirty

import (
	"cmp"
	"slices"
)

const (
	// bridgeBytes is how much of a mapping that needs no change may lie between
	// two parts that do, for all to be mapped again in one call. It costs a
	// minor fault for each page that is then read, and saves a call.
	bridgeBytes = 256 << 10

	unboundedGap = ^uint64(0)

	// partBytes is how much of an address space is protected at once. The host takes
	// about a millisecond for it.
	partBytes = 32 << 20
)

// run is a contiguous piece of an address space that can be mapped in one call.
type run struct {
	whole  entry
	wanted []entry // the entries that the run is for; the rest is between them
}

// runs returns the runs in s that together hold the entries that want selects
// among those that the kernel wants writable. Up to maxGap bytes of others may
// lie within a run. mu is held.
func (a *addressSpace) runs(s span, maxGap uint64, want func(entry) bool) []run {
	var out []run
	var current run
	var reach entry // the contiguous piece seen so far, gaps included
	flush := func() {
		if len(current.wanted) > 0 {
			out = append(out, current)
		}
		current = run{}
	}
	a.table.walk(s.start, s.end, func(e entry) {
		if e.perms&permWrite == 0 {
			flush()
			return
		}
		if len(current.wanted) > 0 && !reach.adjoins(e) {
			flush()
		}
		switch {
		case !want(e):
			if len(current.wanted) > 0 {
				reach.end = e.end
				if reach.end-current.whole.end > maxGap {
					flush()
				}
			}
		case len(current.wanted) == 0:
			current = run{whole: e, wanted: []entry{e}}
			reach = e
		default:
			reach.end = e.end
			current.whole.end = e.end
			current.wanted = append(current.wanted, e)
		}
	})
	flush()
	return out
}

// protect makes everything read-only that was opened since the last call, or
// everything at all. With marks it makes those pages dirty. It holds mu for one
// part at a time, so that the application waits for no more than that when it
// faults.
func (a *addressSpace) protect(everything, marks bool) (remapped, failed uint64) {
	a.mu.Lock()
	spans := a.takeOpened(everything)
	a.mu.Unlock()
	for _, s := range spans {
		for s.start < s.end {
			next, r, f := a.protectPart(s, marks)
			s.start, remapped, failed = next, remapped+r, failed+f
		}
	}
	return remapped, failed
}

// protectPart protects the first part of s, and returns where the next begins.
func (a *addressSpace) protectPart(s span, marks bool) (next, remapped, failed uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := a.table.at(a.table.seek(s.start))
	if first == nil || first.start >= s.end {
		return s.end, 0, 0
	}
	s.start = max(s.start, first.start)
	if s.end-s.start > partBytes {
		s.end = s.start + partBytes
	}
	for _, r := range a.runs(s, bridgeBytes, entry.writable) {
		whole := r.whole.clip(s.start, s.end)
		if marks {
			for _, e := range r.wanted {
				a.tracker.mark(e.clip(s.start, s.end))
			}
		}
		whole.protected = true
		if a.remap(whole) != nil {
			// It stays writable, and is dirty in each collection.
			a.opened = append(a.opened, span{whole.start, whole.end})
			failed++
			continue
		}
		remapped++
		a.table.set(whole, nil)
	}
	return s.end, remapped, failed
}

// takeOpened returns the ranges to look at, sorted, those merged that are so
// near that one run may hold both, and empties the list. mu is held.
func (a *addressSpace) takeOpened(everything bool) []span {
	opened := a.opened
	a.opened = nil
	if everything || a.openedAll {
		a.openedAll = false
		return []span{wholeSpace}
	}
	slices.SortFunc(opened, func(x, y span) int { return cmp.Compare(x.start, y.start) })
	merged := opened[:0]
	for _, s := range opened {
		if n := len(merged); n > 0 && s.start <= merged[n-1].end+bridgeBytes {
			merged[n-1].end = max(merged[n-1].end, s.end)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// markWritable makes the pages dirty that can be written now, and leaves them
// writable.
func (a *addressSpace) markWritable() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.takeOpened(false) {
		a.table.walk(s.start, s.end, func(e entry) {
			if e.writable() {
				a.tracker.mark(e)
			}
		})
	}
	a.openedAll = true
}

// unprotect gives back what the kernel asked for. What fails stays protected,
// and the first write to it tries again.
func (a *addressSpace) unprotect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.openEverything()
	a.opened, a.openedAll = nil, false
}
