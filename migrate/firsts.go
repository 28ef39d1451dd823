package migrate

import "github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"

// firstsEntries is how many pages firsts remembers: some 256 MiB of different content, in 2 MiB.
const firstsEntries = 1 << 16

// firsts finds, by its content, a page that was sent on a lane since its last barrier. The target places the pages of a lane in order, and
// no page is sent twice between two barriers, so that it still has that content when it handles what the lane sends next.
// (Should that ever not be so, the sums of what both sides have differ, and the attempt is aborted.)
//
// It forgets what another page displaces: what is not found is sent with its content. The zero value is empty.
type firsts struct {
	entries []firstEntry // nil before the first note
	round   uint64       // counts the calls of forget
}

type firstEntry struct {
	hash  pages.Hash
	page  uint64
	round uint64 // in which it was sent, plus 1; 0 for none
}

// find returns a page with this content.
func (f *firsts) find(h pages.Hash) (page uint64, ok bool) {
	if f.entries == nil {
		return 0, false
	}
	e := &f.entries[h.Lo%firstsEntries]
	return e.page, e.hash == h && e.round == f.round+1
}

// note says that a page with this content is being sent.
func (f *firsts) note(h pages.Hash, page uint64) {
	if f.entries == nil {
		f.entries = make([]firstEntry, firstsEntries)
	}
	f.entries[h.Lo%firstsEntries] = firstEntry{hash: h, page: page, round: f.round + 1}
}

// forget empties it.
func (f *firsts) forget() { f.round++ }
