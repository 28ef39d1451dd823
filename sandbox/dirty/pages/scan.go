package pages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// readPages is how many pages one pread asks for: what fits the cache that the
// hash then reads from.
const readPages = 64

// Visit is given a run of changed pages: the number of the first, and the bytes
// of all. These are the bytes that were hashed. The caller sends these bytes:
// if it read the page again, it could send other bytes than those that the
// table now stands for, and a page that later changed back would be taken for
// one that never changed.
//
// data is valid only during the call.
type Visit func(first uint64, data []byte) error

// ScanOptions says how to scan. The zero value scans with one goroutine.
type ScanOptions struct {
	// Workers is how many goroutines read and hash. With more than one, Visit
	// is called from several at once. Default 1.
	Workers int
}

// Scanner finds changed pages by hashing all of them.
//
// A Scanner is not safe for concurrent use.
type Scanner struct {
	// Table is what the other side has. A caller that sent pages by another
	// way, or whose sending failed, corrects it between rounds.
	Table Table

	options ScanOptions
}

// NewScanner returns a Scanner with an empty table.
func NewScanner(o ScanOptions) *Scanner {
	o.Workers = max(o.Workers, 1)
	return &Scanner{options: o}
}

// ScanResult is what one round found.
type ScanResult struct {
	// Changed are the pages that hold data other than the table said.
	Changed *Set
	// Freed are the pages of the table that have become holes: the other side
	// punches them.
	Freed *Set

	PagesScanned uint64
	Duration     time.Duration
}

// Round reads and hashes the pages that hold data in the first sizeBytes of the
// memory file fd — those in only, if it is not nil — and compares them with the
// table. Changed pages are given to visit, if it is not nil, and recorded in the
// table; holes leave it.
//
// After an error, also one of visit or ctx, the table does not tell what was
// sent any more, and the Scanner must not be used again.
func (s *Scanner) Round(ctx context.Context, fd int, sizeBytes uint64, only *Set, visit Visit) (ScanResult, error) {
	committed, err := committedOf(fd, sizeBytes, only)
	if err != nil {
		return ScanResult{}, err
	}
	return s.round(ctx, fd, sizeBytes, only, committed, visit)
}

// RoundOf is Round for pages that are known to be in use: it does not ask which
// of them hold data, which takes longer the larger the file is, and takes holes
// for pages of zeros.
func (s *Scanner) RoundOf(ctx context.Context, fd int, sizeBytes uint64, inUse *Set, visit Visit) (ScanResult, error) {
	return s.round(ctx, fd, sizeBytes, inUse, inUse, visit)
}

func (s *Scanner) round(ctx context.Context, fd int, sizeBytes uint64, only, committed *Set, visit Visit) (ScanResult, error) {
	began := time.Now()
	limit := sizeBytes / PageSize
	r := &round{
		fd: fd, limit: limit, only: only, committed: committed, visit: visit, table: &s.Table,
		result: ScanResult{Changed: NewSet(limit), Freed: NewSet(limit)},
	}
	s.Table.grow(limit)
	var wg sync.WaitGroup
	errs := make([]error, s.options.Workers)
	for i := range errs {
		wg.Go(func() { errs[i] = r.work(ctx) })
	}
	wg.Wait()
	r.result.Duration = time.Since(began)
	return r.result, errors.Join(errs...)
}

// sparseFactor is how many times cheaper it is to list a page that holds data
// together with all others than to ask for it alone.
const sparseFactor = 32

// committedOf returns the pages that hold data, at least those in only.
func committedOf(fd int, sizeBytes uint64, only *Set) (*Set, error) {
	if only != nil && only.Count()*sparseFactor < sizeBytes/PageSize {
		return CommittedAmong(fd, only)
	}
	return Committed(fd, sizeBytes)
}

// round is the state that the workers of one round share.
type round struct {
	fd        int
	limit     uint64 // pages in the file
	only      *Set   // read-only during the round; nil means all
	committed *Set   // read-only during the round
	visit     Visit
	table     *Table // each worker touches the block of its stripe only

	nextStripe atomic.Uint64
	failed     atomic.Bool

	mu     sync.Mutex
	result ScanResult // guarded by mu
}

// work takes stripes until none is left.
func (r *round) work(ctx context.Context) (err error) {
	w := &worker{round: r, buf: make([]byte, readPages*PageSize)}
	defer func() {
		if err != nil {
			r.failed.Store(true)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.result.Changed.Union(&w.changed)
		r.result.Freed.Union(&w.freed)
		r.result.PagesScanned += w.scanned
	}()
	for !r.failed.Load() {
		start := (r.nextStripe.Add(1) - 1) * stripePages
		if start >= r.limit {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.stripe(start, min(start+stripePages, r.limit)); err != nil {
			return err
		}
	}
	return nil
}

// worker is one goroutine of a round.
type worker struct {
	*round
	buf            []byte
	changed, freed Set
	scanned        uint64
}

// stripe scans one stripe of pages.
func (w *worker) stripe(start, end uint64) error {
	if w.only == nil {
		return w.within(start, end)
	}
	for s, e := range w.only.RangesWithin(start, end) {
		if err := w.within(s, e); err != nil {
			return err
		}
	}
	return nil
}

// within scans the pages [start, end) of one stripe, data and holes.
func (w *worker) within(start, end uint64) error {
	next := start
	for s, e := range w.committed.RangesWithin(start, end) {
		w.holes(next, s)
		next = e
		for ; s < e; s += readPages {
			if err := w.data(s, min(s+readPages, e)); err != nil {
				return err
			}
		}
	}
	w.holes(next, end)
	return nil
}

// holes notes the pages of [start, end) that the other side still has.
func (w *worker) holes(start, end uint64) {
	if start >= end {
		return
	}
	b := w.table.blocks[start/stripePages]
	if b == nil {
		return
	}
	for page := start; page < end; page++ {
		if _, ok := b.get(page % stripePages); ok {
			b.forget(page % stripePages)
			w.freed.Add(page)
		}
	}
}

// data hashes the pages [start, end), at most readPages, and hands the runs of
// changed ones on.
func (w *worker) data(start, end uint64) error {
	buf := w.buf[:(end-start)*PageSize]
	if err := readFull(w.fd, buf, start); err != nil {
		return err
	}
	w.scanned += end - start
	b := w.table.blockFor(start)
	runStart := start
	for page := start; page < end; page++ {
		i := page % stripePages
		h := HashPage(buf[(page-start)*PageSize:][:PageSize])
		if old, ok := b.get(i); ok && old == h {
			if err := w.emit(runStart, page, start, buf); err != nil {
				return err
			}
			runStart = page + 1
			continue
		}
		b.put(i, h)
	}
	return w.emit(runStart, end, start, buf)
}

// emit hands on the changed run [s, e) of the buffer that begins at page first.
func (w *worker) emit(s, e, first uint64, buf []byte) error {
	if s >= e {
		return nil
	}
	w.changed.AddRange(s, e)
	if w.visit == nil {
		return nil
	}
	return w.visit(s, buf[(s-first)*PageSize:(e-first)*PageSize])
}

// readFull fills buf from the file, beginning at the page.
func readFull(fd int, buf []byte, page uint64) error {
	for done := 0; done < len(buf); {
		n, err := unix.Pread(fd, buf[done:], int64(page*PageSize)+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // the file shrank
		}
		if err != nil {
			return fmt.Errorf("read memory file at page %d: %w", page, err)
		}
		done += n
	}
	return nil
}
