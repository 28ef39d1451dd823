package migrate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// kernelPager is what a fetch needs of a *checkpoint.Pager.
type kernelPager interface {
	Next() (checkpoint.Need, error)
	Answer(id uint32) error
	Memory() *os.File
	Close()
}

// fetch brings the missing pages of a kernel that runs here, after post-copy. It
// outlives the connections that the pages come on: while there is none, tasks that
// need a page wait.
//
// A page is placed once, by whoever takes it out of missing or staged, with mu held
// and while a request of the kernel for it is open; then that is answered. So
// neither a page that comes twice nor one whose frame the kernel has freed meanwhile
// ever overwrites what the guest has written.
type fetch struct {
	pager      kernelPager
	limitPages uint64        // no missing page is beyond
	over       chan struct{} // closed when err is final

	mu    sync.Mutex
	moved sync.Cond // its lock is mu
	// missing are the pages that have not come. Guarded by mu, as is everything below.
	missing *pages.Set
	// needs are the kernel's open requests, by each page that they wait for.
	needs map[uint64]*openNeed
	// staged are pages that came before the kernel asked for them; nil for zeros.
	staged map[uint64][]byte
	// came and sum are what has come since this agent has the kernel.
	came *pages.Set
	sum  wire.PageSum
	// loaded: the kernel has every page that it needs.
	loaded bool
	err    error

	roads *roads // the connections; nil while there is none
	plan  fetchPlan
}

// openNeed is a request of the kernel that is not answered.
type openNeed struct {
	id   uint32
	left int // pages that have not come
}

// What ends a fetch other than its success.
var (
	errKernelGone = errors.New("the sandbox ended while memory was missing")
	errSumDiffers = errors.New("memory that was fetched differs from the source's")
)

// newFetch begins to listen to a kernel. Pages are asked for once there are connections:
// attach.
func newFetch(pager kernelPager, missing *pages.Set) *fetch {
	f := &fetch{
		pager: pager, over: make(chan struct{}), missing: missing, needs: make(map[uint64]*openNeed),
		staged: make(map[uint64][]byte), came: &pages.Set{}, plan: newFetchPlan(),
	}
	f.moved.L = &f.mu
	for _, end := range missing.Ranges() {
		f.limitPages = end
	}
	go f.listen()
	return f
}

// listen takes the kernel's requests until the last.
func (f *fetch) listen() {
	for {
		need, err := f.pager.Next()
		if err == nil {
			err = f.want(need)
		}
		if err == nil {
			continue
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if errors.Is(err, checkpoint.ErrAllLoaded) {
			f.loaded = true
			clear(f.staged)
			if f.came.Empty() {
				f.finish(nil)
			}
			f.moved.Broadcast()
			return
		}
		if errors.Is(err, io.EOF) {
			err = errKernelGone
		}
		f.finish(err)
		if errors.Is(err, errKernelGone) {
			f.pager.Close() // whoever keeps the fetch need not keep that memory
		}
		return
	}
}

// finish makes the fetch over. The caller holds mu.
func (f *fetch) finish(err error) {
	select {
	case <-f.over:
	default:
		f.err = err
		f.staged = nil
		close(f.over)
		f.moved.Broadcast()
	}
}

// left returns how many pages are still to come; at least 1 until the fetch is over.
func (f *fetch) left() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded {
		return 1 // to be compared
	}
	return max(1, f.missing.Count())
}

// want takes a request of the kernel.
func (f *fetch) want(n checkpoint.Need) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := &openNeed{id: n.ID}
	for _, run := range n.Runs {
		for page := run.First; page < run.First+run.Count; page++ {
			if f.needs[page] != nil {
				return fmt.Errorf("%w: it asks for page %d twice", checkpoint.ErrSandbox, page)
			}
			if data, ok := f.staged[page]; ok {
				if err := f.write(page, page+1, data); err != nil {
					return err
				}
				delete(f.staged, page)
			} else if f.missing.Has(page) {
				f.needs[page] = open
				open.left++
			}
		}
	}
	f.plan.wanted(n.Runs, f.missing)
	f.moved.Broadcast()
	if open.left > 0 {
		return nil
	}
	f.pager.Answer(n.ID) // a kernel that is gone is noticed by listen
	return nil
}

// place takes the pages of a frame.
func (f *fetch) place(records []wire.PageRecord) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range records {
		if r.Kind == wire.RecordDuplicate {
			return errors.New("a missing page is sent as a duplicate")
		}
		if err := f.take(r.Page, r.End(), r.Data); err != nil {
			return err
		}
	}
	f.moved.Broadcast()
	return nil
}

// take places or stages pages that have come; data is nil for zeros. The caller
// holds mu.
func (f *fetch) take(start, end uint64, data []byte) error {
	if f.loaded || f.isOver() {
		return nil // the guest freed it meanwhile: it is of no use, and not on the list of what came
	}
	for next := start; start < end; start = next {
		due, needed := f.due(start), f.needs[start] != nil
		for next = start + 1; next < end && f.due(next) == due && (f.needs[next] != nil) == needed; next++ {
		}
		var piece []byte
		if data != nil {
			size := (next - start) * pages.PageSize
			piece, data = data[:size], data[size:]
		}
		if !due {
			continue
		}
		if needed {
			if err := f.write(start, next, piece); err != nil {
				return err
			}
		} else {
			f.stage(start, next, piece)
		}
		f.note(start, next, piece)
		if needed {
			f.answer(start, next)
		}
	}
	return nil
}

// due says whether a page is to be taken when it comes. One that came before may be the
// guest's by now, and what nobody asked for has no bound. The caller holds mu.
func (f *fetch) due(page uint64) bool {
	return f.missing.Has(page) && (f.needs[page] != nil || f.plan.asked.Has(page))
}

// write puts pages into the kernel's memory. The caller holds mu.
func (f *fetch) write(start, end uint64, data []byte) error {
	if data == nil {
		return punchHole(f.pager.Memory(), start, end)
	}
	if _, err := f.pager.Memory().WriteAt(data, int64(start*pages.PageSize)); err != nil {
		return fmt.Errorf("place pages in sandbox memory: %w", err)
	}
	return nil
}

// stage keeps pages until the kernel asks for them. The caller holds mu.
func (f *fetch) stage(start, end uint64, data []byte) {
	for page := start; page < end; page++ {
		f.staged[page] = nil
		if data != nil {
			f.staged[page] = append([]byte(nil), data[(page-start)*pages.PageSize:][:pages.PageSize]...)
		}
	}
}

// note keeps account of pages that have come. The caller holds mu.
func (f *fetch) note(start, end uint64, data []byte) {
	f.missing.RemoveRange(start, end)
	f.plan.came(start, end, time.Now())
	f.came.AddRange(start, end)
	for page := start; page < end; page++ {
		h := zeroPageHash
		if data != nil {
			h = pages.HashPage(data[(page-start)*pages.PageSize:][:pages.PageSize])
		}
		f.sum.Add(memoryStream, page, wire.Digest(h.Bytes()))
	}
}

// answer answers the requests that waited only for some pages. The caller holds
// mu.
func (f *fetch) answer(start, end uint64) {
	for page := start; page < end; page++ {
		open := f.needs[page]
		delete(f.needs, page)
		if open.left--; open.left == 0 {
			f.pager.Answer(open.id) // a kernel that is gone is noticed by listen
		}
	}
}

// compare takes the source's sum of all that has come.
func (f *fetch) compare(source wire.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.loaded {
		return errors.New("a sum comes before it was asked for")
	}
	if own := f.sum.Digest(); own != source {
		f.finish(fmt.Errorf("%w: %d pages sum to %v, its to %v", errSumDiffers, f.came.Count(), own, source))
		return nil
	}
	f.finish(nil)
	return nil
}
