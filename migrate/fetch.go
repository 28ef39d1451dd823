package migrate

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// kernelPager is what a fetch needs of a *checkpoint.Pager.
type kernelPager interface {
	Next() ([]image.Run, error)
	NextFaults() ([]uint64, error)
	Mapped() error
	Place(first, count uint64, data []byte) error
	Placed(runs []image.Run) error
	Fill(page uint64) error
	Close()
}

// fetch brings the missing pages of a kernel that runs here, after post-copy. It
// outlives the connections that the pages come on: while there is none, tasks that
// need a page wait.
//
// A page is placed once, by whoever takes it out of missing, with mu held. So a page
// that comes twice never overwrites what the guest has written.
type fetch struct {
	pager      kernelPager
	limitPages uint64        // no missing page is beyond
	over       chan struct{} // closed when err is final

	mu    sync.Mutex
	moved sync.Cond // its lock is mu
	// missing are the pages that have not come. Guarded by mu, as is everything below.
	missing *pages.Set
	// needed are those of them that somebody waits for, and faulted those that the kernel
	// itself has touched.
	needed, faulted *pages.Set
	// came and sum are what has come since this agent has the kernel.
	came *pages.Set
	sum  wire.PageSum
	// said: the kernel was told of some of that.
	said bool
	// loaded: the kernel has every page that it needs.
	loaded bool
	// failed: a page could not be placed, maybe after others that nobody knows of. None is placed any more; err follows.
	failed bool
	err    error

	roads  *roads // the connections; nil while there is none
	hungUp bool   // see hangUp
	plan   fetchPlan
}

// What ends a fetch other than its success.
var (
	errKernelGone = errors.New("the sandbox ended while memory was missing")
	errSumDiffers = errors.New("memory that was fetched differs from the source's")
)

// memoryDiffers says whether a fetch has failed because memory is not what the source had.
func memoryDiffers(err error) bool {
	return errors.Is(err, errSumDiffers) || errors.Is(err, faults.ErrPresent)
}

// mayPass says whether another fetch may succeed where one has failed: the sandbox process stood still, there was no memory to put
// pages in, or the kernel let go of its pager. What memory has that it should not have lasts, and is for a person.
func mayPass(err error) bool {
	return slices.ContainsFunc([]error{checkpoint.ErrDeaf, errKernelGone, unix.ENOMEM, unix.ENOSPC}, func(passing error) bool {
		return errors.Is(err, passing)
	})
}

// newFetch begins to listen to a kernel. Pages are asked for once there are connections:
// attach.
func newFetch(pager kernelPager, missing *pages.Set) *fetch {
	f := makeFetch(pager, missing)
	go f.listen()
	go f.watch()
	return f
}

func makeFetch(pager kernelPager, missing *pages.Set) *fetch {
	f := &fetch{
		pager: pager, over: make(chan struct{}), missing: missing, needed: &pages.Set{}, faulted: &pages.Set{},
		came: &pages.Set{}, plan: newFetchPlan(),
	}
	f.moved.L = &f.mu
	for _, end := range missing.Ranges() {
		f.limitPages = end
	}
	return f
}

// differingFetch stands for the fetch of an agent before this one, which found that memory differs.
func differingFetch() *fetch {
	f := makeFetch(noPager{}, &pages.Set{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish(fmt.Errorf("%w, found an agent before this one", errSumDiffers))
	return f
}

// noPager is that of a fetch that is over: nothing else is called.
type noPager struct{ kernelPager }

func (noPager) Mapped() error { return io.EOF }
func (noPager) Close()        {}

// begin says that the kernel runs: what nobody waits for may come too.
func (f *fetch) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan.began.IsZero() {
		f.plan.began = time.Now()
		f.moved.Broadcast()
	}
}

// listen takes what the kernel says until the last.
func (f *fetch) listen() {
	for {
		runs, err := f.pager.Next()
		if err == nil {
			f.want(runs)
			continue
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if errors.Is(err, checkpoint.ErrAllLoaded) {
			f.loaded = true
			if f.came.Empty() {
				f.finish(nil)
			}
			f.moved.Broadcast()
			return
		}
		err = goneIfEOF(err)
		f.finish(err)
		if errors.Is(err, errKernelGone) {
			f.pager.Close() // whoever keeps the fetch need not keep that memory
		}
		return
	}
}

// watch takes the accesses of the kernel itself to pages that are not there.
func (f *fetch) watch() {
	for {
		list, err := f.pager.NextFaults()
		for _, page := range list {
			if err == nil {
				err = f.fault(page)
			}
		}
		if errors.Is(err, io.EOF) {
			return // listen knows why
		}
		if err != nil {
			f.mu.Lock()
			f.finish(err)
			f.mu.Unlock()
			return
		}
	}
}

// finish makes the fetch over. The caller holds mu.
func (f *fetch) finish(err error) {
	select {
	case <-f.over:
	default:
		f.err = err
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

// brought says whether the kernel has got on: it was told of a page that had come, so that the next pager is not given that again.
func (f *fetch) brought() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said
}

// want takes what a task waits for.
func (f *fetch) want(runs []image.Run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.need(runs)
}

// need makes what is missing of some pages urgent, once: who waits for long may say so again
// and again. The caller holds mu.
func (f *fetch) need(runs []image.Run) {
	var fresh []image.Run
	runs = f.plan.widen(runs)
	for _, run := range runs {
		for start, end := range f.missing.RangesWithin(run.First, run.First+run.Count) {
			for next := start; start < end; start = next {
				known := f.needed.Has(start)
				for next = start + 1; next < end && f.needed.Has(next) == known; next++ {
				}
				if !known {
					fresh = append(fresh, image.Run{First: start, Count: next - start})
				}
			}
		}
	}
	if len(fresh) == 0 {
		return
	}
	for _, run := range fresh {
		f.needed.AddRange(run.First, run.First+run.Count)
	}
	f.plan.wanted(fresh, f.missing, time.Now())
	f.moved.Broadcast()
}

// fault takes an access of the kernel itself.
func (f *fetch) fault(page uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.missing.Has(page) {
		return f.pager.Fill(page)
	}
	f.faulted.Add(page)
	f.need(around(image.Run{First: page, Count: 1}, touchedPages))
	return nil
}

// place takes the pages of a frame. What waits for the kernel, waits without mu: listen needs
// that to hear it.
func (f *fetch) place(records []wire.PageRecord) error {
	if slices.ContainsFunc(records, func(r wire.PageRecord) bool { return r.Kind == wire.RecordDuplicate }) {
		return errors.New("a missing page is sent as a duplicate")
	}
	if err := f.pager.Mapped(); err != nil {
		return goneIfEOF(err) // listen ends the fetch
	}
	placed, err := f.takeAll(records)
	f.say(placed) // also before an error: the next pager would be given these pages again
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.finish(err)
	}
	return err
}

// takeAll places the pages of a frame and returns which, also those before an error.
func (f *fetch) takeAll(records []wire.PageRecord) (placed []image.Run, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.moved.Broadcast()
	for _, r := range records {
		more, err := f.take(r.Page, r.End(), r.Data)
		placed = append(placed, more...)
		if err != nil {
			f.failed = true
			if !mayPass(err) {
				f.finish(err) // there is no next pager, and what else goes wrong meanwhile might pass
			}
			return placed, err
		}
	}
	return placed, nil
}

// say tells the kernel which pages are in their place. What is wrong with the kernel is noticed by listen.
func (f *fetch) say(placed []image.Run) {
	for runs := range slices.Chunk(placed, checkpoint.MaxPlacedRuns) {
		if f.pager.Placed(runs) != nil {
			return
		}
		f.mu.Lock()
		f.said = true
		f.mu.Unlock()
	}
}

// goneIfEOF is a pager's error, with the name that a fetch has for io.EOF.
func goneIfEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errKernelGone
	}
	return err
}

// take places pages that have come and returns which, also those before an error; data is nil
// for zeros. The caller holds mu.
func (f *fetch) take(start, end uint64, data []byte) (placed []image.Run, err error) {
	if f.loaded || f.failed || f.isOver() {
		return nil, nil
	}
	for next := start; start < end; start = next {
		due := f.due(start)
		for next = start + 1; next < end && f.due(next) == due; next++ {
		}
		var piece []byte
		if data != nil {
			size := (next - start) * pages.PageSize
			piece, data = data[:size], data[size:]
		}
		if !due {
			continue
		}
		if err := f.put(start, next, piece); err != nil {
			return placed, err
		}
		f.note(start, next, piece)
		placed = append(placed, image.Run{First: start, Count: next - start})
	}
	return placed, nil
}

// due says whether a page is to be taken when it comes. One that came before may have been
// changed by the guest, and what nobody asked for has no bound. The caller holds mu.
func (f *fetch) due(page uint64) bool { return f.missing.Has(page) && f.plan.asked.Has(page) }

// put puts pages into the kernel's memory. The caller holds mu.
func (f *fetch) put(start, end uint64, data []byte) error {
	err := f.pager.Place(start, end-start, data)
	if data == nil && err == nil {
		for first, last := range f.faulted.RangesWithin(start, end) {
			for page := first; page < last && err == nil; page++ {
				err = f.pager.Fill(page)
			}
		}
	}
	return goneIfEOF(err)
}

// note keeps account of pages that have come. The caller holds mu.
func (f *fetch) note(start, end uint64, data []byte) {
	for _, set := range []*pages.Set{f.missing, f.needed, f.faulted} {
		set.RemoveRange(start, end)
	}
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
