package migrate

import (
	"bytes"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// memoryStream is the number of the one memory file that a sandbox has.
const memoryStream = 0

// ledger is what the target has, page by page: each side keeps one, and before a
// commit their sums must agree. It is kept up to date while pages move, so that
// the stop does not go through all of memory.
type ledger struct {
	mu sync.Mutex
	// hashes are of the pages that the target has, and sum is of the same. Guarded
	// by mu.
	hashes pages.Table
	sum    wire.PageSum
}

var zeroPage [pages.PageSize]byte

var zeroPageHash = pages.HashPage(zeroPage[:])

// place notes whole pages from first on, and returns their hashes.
func (l *ledger) place(first uint64, data []byte) []pages.Hash {
	hashes := make([]pages.Hash, len(data)/pages.PageSize)
	for i := range hashes {
		hashes[i] = pages.HashPage(data[i*pages.PageSize:][:pages.PageSize])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, h := range hashes {
		l.put(first+uint64(i), h)
	}
	return hashes
}

// zero notes pages of zeros.
func (l *ledger) zero(first, count uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for page := first; page < first+count; page++ {
		l.put(page, zeroPageHash)
	}
}

// put notes one page. The caller holds mu.
func (l *ledger) put(page uint64, h pages.Hash) {
	if old, ok := l.hashes.Get(page); ok {
		l.sum.Remove(memoryStream, page, wire.Digest(old.Bytes()))
	}
	l.hashes.Put(page, h)
	l.sum.Add(memoryStream, page, wire.Digest(h.Bytes()))
}

// forget notes that pages became holes.
func (l *ledger) forget(start, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for page := start; page < end; page++ {
		if old, ok := l.hashes.Get(page); ok {
			l.sum.Remove(memoryStream, page, wire.Digest(old.Bytes()))
		}
	}
	l.hashes.Forget(start, end)
}

// known returns the pages that the target has.
func (l *ledger) known() *pages.Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hashes.Known()
}

// keep forgets what is not committed, and returns it.
func (l *ledger) keep(committed *pages.Set) (dropped *pages.Set) {
	dropped = l.known()
	dropped.Subtract(committed)
	for start, end := range dropped.Ranges() {
		l.forget(start, end)
	}
	return dropped
}

// digest is the sum of all that the target has.
func (l *ledger) digest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum.Digest().String()
}

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }
