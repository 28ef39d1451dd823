package pages

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

const (
	// PageSize is the unit of everything here, in bytes.
	PageSize = 4096

	// MaxPages bounds the page numbers of a Set: 4 TiB of memory, a bitmap of
	// 128 MiB. Who takes page numbers from a file or a wire checks them
	// against it (or against the size of the memory file) first.
	MaxPages = 1 << 30

	wordBits = 64
	allOnes  = ^uint64(0)
)

// Set is a set of pages, as a bitmap that grows to the highest page ever
// added: 32 KiB for each GiB of memory. The zero value is an empty set.
//
// A Set is not safe for concurrent use, with one exception: within the room that
// NewSet or Grow made, goroutines may add and remove pages at once if no two of
// them touch the same aligned group of 64 pages.
type Set struct {
	words []uint64
}

// NewSet returns an empty set with room for pages below the given count, so
// that adding them allocates nothing.
func NewSet(pageCount uint64) *Set {
	s := &Set{}
	s.Grow(pageCount)
	return s
}

// Grow makes room for the pages below end. It panics if end exceeds MaxPages.
func (s *Set) Grow(end uint64) {
	if end > MaxPages {
		panic(fmt.Sprintf("pages: page %d is beyond the limit of %d", end-1, MaxPages))
	}
	need := int((end + wordBits - 1) / wordBits)
	if need <= len(s.words) {
		return
	}
	s.words = slices.Grow(s.words, need-len(s.words))
	s.words = s.words[:need]
}

// Add adds one page. It panics if the page is not below MaxPages.
func (s *Set) Add(page uint64) {
	s.AddRange(page, page+1)
}

// AddRange adds the pages [start, end). It panics if end exceeds MaxPages.
func (s *Set) AddRange(start, end uint64) {
	if start >= end {
		return
	}
	s.Grow(end)
	forWords(start, end, func(i uint64, mask uint64) { s.words[i] |= mask })
}

// Remove removes one page.
func (s *Set) Remove(page uint64) {
	s.RemoveRange(page, page+1)
}

// RemoveRange removes the pages [start, end).
func (s *Set) RemoveRange(start, end uint64) {
	end = min(end, s.limit())
	if start >= end {
		return
	}
	forWords(start, end, func(i uint64, mask uint64) { s.words[i] &^= mask })
}

// forWords calls f with each word that [start, end) touches, and the bits of
// the range in it. The range is not empty.
func forWords(start, end uint64, f func(i, mask uint64)) {
	first, last := start/wordBits, (end-1)/wordBits
	head := allOnes << (start % wordBits)
	tail := allOnes >> (wordBits - 1 - (end-1)%wordBits)
	if first == last {
		f(first, head&tail)
		return
	}
	f(first, head)
	for i := first + 1; i < last; i++ {
		f(i, allOnes)
	}
	f(last, tail)
}

// limit is the first page that the bitmap has no bit for.
func (s *Set) limit() uint64 {
	return uint64(len(s.words)) * wordBits
}

// Has reports whether the page is in the set.
func (s *Set) Has(page uint64) bool {
	return page < s.limit() && s.words[page/wordBits]>>(page%wordBits)&1 != 0
}

// Count returns the number of pages.
func (s *Set) Count() uint64 {
	var n int
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return uint64(n)
}

// Empty reports whether there are no pages.
func (s *Set) Empty() bool {
	for _, w := range s.words {
		if w != 0 {
			return false
		}
	}
	return true
}

// Clear removes all pages, and keeps the memory for more.
func (s *Set) Clear() {
	clear(s.words)
}

// Clone returns an independent copy.
func (s *Set) Clone() *Set {
	return &Set{words: slices.Clone(s.words)}
}

// Take moves the pages into a new set and leaves an empty one, with as much
// room as before.
func (s *Set) Take() *Set {
	taken := &Set{words: s.words}
	s.words = make([]uint64, len(taken.words))
	return taken
}

// Union adds the pages of o.
func (s *Set) Union(o *Set) {
	s.Grow(o.limit())
	for i, w := range o.words {
		s.words[i] |= w
	}
}

// Subtract removes the pages of o.
func (s *Set) Subtract(o *Set) {
	for i := range min(len(s.words), len(o.words)) {
		s.words[i] &^= o.words[i]
	}
}

// Intersect removes the pages that are not in o.
func (s *Set) Intersect(o *Set) {
	common := min(len(s.words), len(o.words))
	for i := range common {
		s.words[i] &= o.words[i]
	}
	clear(s.words[common:])
}

// Equal reports whether both sets hold the same pages.
func (s *Set) Equal(o *Set) bool {
	short, long := s.words, o.words
	if len(short) > len(long) {
		short, long = long, short
	}
	rest := Set{words: long[len(short):]}
	return slices.Equal(short, long[:len(short)]) && rest.Empty()
}

// Ranges yields the maximal runs [start, end) of pages, in ascending order. The
// set must not change meanwhile.
func (s *Set) Ranges() iter.Seq2[uint64, uint64] {
	return s.RangesWithin(0, s.limit())
}

// RangesWithin yields the runs as Ranges does, cut to [from, to).
func (s *Set) RangesWithin(from, to uint64) iter.Seq2[uint64, uint64] {
	to = min(to, s.limit())
	return func(yield func(start, end uint64) bool) {
		for next := from; next < to; {
			start := s.nextBit(next, to, 0)
			if start >= to {
				return
			}
			end := s.nextBit(start, to, allOnes)
			if !yield(start, end) {
				return
			}
			next = end
		}
	}
}

// nextBit returns the first page in [from, to) whose bit is set (invert 0) or
// clear (invert all ones), or to. It skips whole words.
func (s *Set) nextBit(from, to, invert uint64) uint64 {
	for from < to {
		w := (s.words[from/wordBits] ^ invert) >> (from % wordBits)
		if w != 0 {
			return min(from+uint64(bits.TrailingZeros64(w)), to)
		}
		from = (from/wordBits + 1) * wordBits
	}
	return to
}
