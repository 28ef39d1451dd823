package pages

import (
	"github.com/zeebo/xxh3"
)

// Hash is the xxh3-128 of one page. It finds changes, not attacks.
type Hash = xxh3.Uint128

// HashPage returns the hash of one page.
func HashPage(page []byte) Hash {
	return xxh3.Hash128(page)
}

var zeroHash = HashPage(make([]byte, PageSize))

const (
	// stripePages is how many pages one block of a Table holds, and how many
	// one worker of a Scanner takes at a time (16 MiB), so that no two workers
	// touch the same block.
	stripePages = 4096
	stripeWords = stripePages / wordBits
)

// block holds the hashes of one stripe of pages.
type block struct {
	known  [stripeWords]uint64
	hashes [stripePages]Hash
}

func (b *block) get(i uint64) (Hash, bool) {
	if b == nil || b.known[i/wordBits]>>(i%wordBits)&1 == 0 {
		return Hash{}, false
	}
	return b.hashes[i], true
}

func (b *block) put(i uint64, h Hash) {
	b.hashes[i] = h
	b.known[i/wordBits] |= 1 << (i % wordBits)
}

func (b *block) forget(i uint64) {
	b.known[i/wordBits] &^= 1 << (i % wordBits)
}

// Table remembers the hash of each page that the other side has. It takes 4 MiB
// for each GiB of pages that it knows. The zero value knows none.
//
// A Table is not safe for concurrent use.
type Table struct {
	blocks []*block
}

// grow makes room for pointers to the blocks of the pages below end.
func (t *Table) grow(end uint64) {
	need := int((end + stripePages - 1) / stripePages)
	if need > len(t.blocks) {
		t.blocks = append(t.blocks, make([]*block, need-len(t.blocks))...)
	}
}

// blockFor returns the block of the page's stripe and makes it if there is
// none. The table has been grown to include it.
func (t *Table) blockFor(page uint64) *block {
	p := &t.blocks[page/stripePages]
	if *p == nil {
		*p = new(block)
	}
	return *p
}

// Put records that the other side has a page with this hash. It panics if the
// page is not below MaxPages.
func (t *Table) Put(page uint64, h Hash) {
	if page >= MaxPages {
		panic("pages: page beyond the limit")
	}
	t.grow(page + 1)
	t.blockFor(page).put(page%stripePages, h)
}

// Get returns what is known of the page.
func (t *Table) Get(page uint64) (Hash, bool) {
	i := page / stripePages
	if i >= uint64(len(t.blocks)) {
		return Hash{}, false
	}
	return t.blocks[i].get(page % stripePages)
}

// Forget drops what is known of the pages [start, end): the other side has
// holes there.
func (t *Table) Forget(start, end uint64) {
	for page := start; page < min(end, uint64(len(t.blocks))*stripePages); page++ {
		if b := t.blocks[page/stripePages]; b != nil {
			b.forget(page % stripePages)
		}
	}
}

// Known returns the pages that the table has a hash of.
func (t *Table) Known() *Set {
	set := NewSet(uint64(len(t.blocks)) * stripePages)
	for i, b := range t.blocks {
		if b != nil {
			copy(set.words[i*stripeWords:], b.known[:])
		}
	}
	return set
}
