package dirty

import (
	"slices"
	"sort"
)

// permissions of an entry, as the kernel asked for them.
type permissions uint8

const (
	permRead permissions = 1 << iota
	permWrite
	permExecute
)

// entry is one mapping of the memory file: the addresses [start, end) map the
// file from offset on, in bytes.
type entry struct {
	start, end uint64
	offset     uint64
	perms      permissions
	// protected says that the kernel asked for a writable mapping, and that it
	// is read-only on the host. Without it, what perms allows may be written.
	protected bool
}

// writable says that the application can write there without our notice.
func (e entry) writable() bool {
	return e.perms&permWrite != 0 && !e.protected
}

// adjoins says that next goes on where e ends, in addresses and in the file, with
// the same permissions. One may be protected and the other not.
func (e entry) adjoins(next entry) bool {
	return e.end == next.start && e.perms == next.perms && e.offset+(e.end-e.start) == next.offset
}

// clip returns the part of e within [start, end). They overlap.
func (e entry) clip(start, end uint64) entry {
	if start > e.start {
		e.offset += start - e.start
		e.start = start
	}
	e.end = min(e.end, end)
	return e
}

// filePages returns the pages of the file that e maps.
func (e entry) filePages() (start, end uint64) {
	return e.offset / pageSize, (e.offset + e.end - e.start) / pageSize
}

// maxLeaf is how many entries a leaf holds before it is split: few enough to
// shift on each insertion, enough that an ordinary address space is one leaf.
const maxLeaf = 128

// table holds the entries of one address space, sorted, disjoint and merged
// where they can be. It is a sorted slice, cut into leaves so that 10,000
// mappings cost little more than 10. The zero value is empty.
type table struct {
	leaves [][]entry // none is empty
}

// position names an entry: the index of its leaf, and of the entry in it.
type position struct{ leaf, index int }

// seek returns the position of the first entry that ends above addr.
func (t *table) seek(addr uint64) position {
	l := sort.Search(len(t.leaves), func(i int) bool {
		leaf := t.leaves[i]
		return leaf[len(leaf)-1].end > addr
	})
	if l == len(t.leaves) {
		return position{leaf: l}
	}
	leaf := t.leaves[l]
	return position{l, sort.Search(len(leaf), func(i int) bool { return leaf[i].end > addr })}
}

// at returns the entry at p, or nil behind the last. It is valid until the
// table changes.
func (t *table) at(p position) *entry {
	if p.leaf >= len(t.leaves) {
		return nil
	}
	return &t.leaves[p.leaf][p.index]
}

func (t *table) next(p position) position {
	p.index++
	if p.index == len(t.leaves[p.leaf]) {
		return position{leaf: p.leaf + 1}
	}
	return p
}

// find returns the entry that maps addr.
func (t *table) find(addr uint64) (entry, bool) {
	e := t.at(t.seek(addr))
	if e == nil || e.start > addr {
		return entry{}, false
	}
	return *e, true
}

// walk calls visit with each entry that overlaps [start, end), in order and
// whole. The table must not change meanwhile.
func (t *table) walk(start, end uint64, visit func(entry)) {
	for p := t.seek(start); ; p = t.next(p) {
		e := t.at(p)
		if e == nil || e.start >= end {
			return
		}
		visit(*e)
	}
}

// carve removes [start, end) and calls removed, if it is not nil, with each
// piece that was there. It returns the position of what follows.
func (t *table) carve(start, end uint64, removed func(entry)) position {
	p := t.seek(start)
	for {
		e := t.at(p)
		if e == nil || e.start >= end {
			return p
		}
		whole := *e
		if removed != nil {
			removed(whole.clip(start, end))
		}
		switch {
		case whole.start < start && whole.end > end: // a hole in the middle
			*e = whole.clip(whole.start, start)
			t.insertAt(t.next(p), whole.clip(end, whole.end))
			return t.seek(start)
		case whole.start < start:
			*e = whole.clip(whole.start, start)
			p = t.next(p)
		case whole.end > end:
			*e = whole.clip(end, whole.end)
			return p
		default:
			p = t.deleteAt(p)
		}
	}
}

// set makes e what is mapped at its addresses, whatever was there, and calls
// removed as carve does.
func (t *table) set(e entry, removed func(entry)) {
	t.insert(e, t.carve(e.start, e.end, removed))
}

// insert adds an entry where there is none, and merges it with its neighbours. p
// is the position of what follows.
func (t *table) insert(e entry, p position) {
	if next := t.at(p); next != nil && e.adjoins(*next) && e.protected == next.protected {
		e.end = next.end
		p = t.deleteAt(p)
	}
	if prev := t.before(p); prev != nil && prev.adjoins(e) && prev.protected == e.protected {
		prev.end = e.end
		return
	}
	t.insertAt(p, e)
}

// before returns the entry in front of p, or nil.
func (t *table) before(p position) *entry {
	if p.index > 0 {
		return &t.leaves[p.leaf][p.index-1]
	}
	if p.leaf > 0 {
		leaf := t.leaves[p.leaf-1]
		return &leaf[len(leaf)-1]
	}
	return nil
}

// insertAt puts e in front of p.
func (t *table) insertAt(p position, e entry) {
	if p.index == 0 && p.leaf > 0 { // append to the leaf in front
		p = position{p.leaf - 1, len(t.leaves[p.leaf-1])}
	}
	if p.leaf == len(t.leaves) {
		t.leaves = append(t.leaves, []entry{e})
		return
	}
	leaf := slices.Insert(t.leaves[p.leaf], p.index, e)
	t.leaves[p.leaf] = leaf
	if len(leaf) > maxLeaf {
		half := len(leaf) / 2
		t.leaves[p.leaf] = leaf[:half:half]
		t.leaves = slices.Insert(t.leaves, p.leaf+1, slices.Clone(leaf[half:]))
	}
}

// deleteAt removes the entry at p and returns the position of the one that
// followed it.
func (t *table) deleteAt(p position) position {
	leaf := slices.Delete(t.leaves[p.leaf], p.index, p.index+1)
	t.leaves[p.leaf] = leaf
	switch {
	case len(leaf) == 0:
		t.leaves = slices.Delete(t.leaves, p.leaf, p.leaf+1)
		return position{leaf: p.leaf}
	case p.index == len(leaf):
		return position{leaf: p.leaf + 1}
	}
	return p
}

// count returns the number of entries.
func (t *table) count() int {
	n := 0
	for _, leaf := range t.leaves {
		n += len(leaf)
	}
	return n
}
