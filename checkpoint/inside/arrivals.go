package inside

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// frames is what arrivals need of a *pgalloc.MemoryFile.
type frames interface {
	IncRef(fr memmap.FileRange, memCgID uint32)
	DecRef(fr memmap.FileRange)
	MapInternal(fr memmap.FileRange, at hostarch.AccessType) (safemem.BlockSeq, error)
}

// arrivals are the pages that another host has still, while the kernel runs here. As
// the kernel's stateio.AsyncReader they read no page.
//
// With a trap, the kernel is told at once that it has every page, and what touches one
// that has not come waits: see package faults, and await. Without, it is told so page by
// page; then it waits for all of a piece of memory (which a heap is) where a system call
// touches one page of it.
//
// The pager places every missing page once, whatever the guest does meanwhile. So
// each has a reference more until it has come: a page that the guest frees is freed after
// that, and never is the frame in use for something else.
//
// Lock order: the memory file's lock, then mu. References are given back without mu.
type arrivals struct {
	memory frames
	trap   *faults.Trap // nil: there is none
	// begun and ended are boot.Loading's Arriving and Loaded.
	begun func(await func(start, end uint64))
	ended func()

	mu      sync.Mutex
	changed sync.Cond // its lock is mu
	// pager is the connection to the pager; nil while there is none. Guarded by mu,
	// as is everything below.
	pager *pagerConn
	// missing are the pages that have not come; nil before the pager has said which. lasting:
	// there were some.
	missing *pages.Set
	lasting bool
	// window is where the memory file is mapped, from its first byte on.
	window window
	mapped bool
	// ready: frames are kept, and accesses wait. Before that nothing is given to the kernel.
	ready, preparing bool
	over             bool     // the last page has come, or none was missing
	lent             *os.File // a descriptor of the trap, for a pager
	err              error

	// asked are the kernel's requests by their IDs; without ranges where none is under way.
	asked [MaxRequests]askedPages
	done  []stateio.Completion
	// waits are what mappings wait for.
	waits map[*pageSpan]struct{}
}

// window is a mapping of the memory file.
type window struct{ addr, bytes uintptr }

// pageSpan are the pages [start, end).
type pageSpan struct{ start, end uint64 }

// newArrivals begins to listen to the pager on socket, which it owns, as it does trap.
func newArrivals(socket *os.File, memory frames, trap *faults.Trap, begun func(func(start, end uint64)), ended func()) *arrivals {
	a := &arrivals{memory: memory, trap: trap, begun: begun, ended: ended, waits: make(map[*pageSpan]struct{})}
	a.changed.L = &a.mu
	a.pager = newPagerConn(socket)
	go a.receive(a.pager)
	return a
}

// Close implements stateio.AsyncReader.Close. That the kernel has all of its pages
// says nothing: see arrivals.
func (*arrivals) Close() error { return nil }

// MaxReadBytes implements stateio.AsyncReader.MaxReadBytes.
func (a *arrivals) MaxReadBytes() uint64 {
	if a.trap != nil {
		return wholeBytes
	}
	return MaxRequestBytes
}

// MaxRanges implements stateio.AsyncReader.MaxRanges.
func (*arrivals) MaxRanges() int { return MaxRequestRanges }

// MaxParallel implements stateio.AsyncReader.MaxParallel.
func (*arrivals) MaxParallel() int { return MaxRequests }

// NeedRegisterDestinationFD implements stateio.AsyncReader.NeedRegisterDestinationFD. It is
// what makes the kernel pass file ranges.
func (*arrivals) NeedRegisterDestinationFD() bool { return true }

// RegisterDestinationFD implements stateio.AsyncReader.RegisterDestinationFD. The kernel
// calls it when it has mapped the memory file and knows which frames are in use, and
// before it asks for any page.
func (a *arrivals) RegisterDestinationFD(fd int32, bytes uint64, _ []stateio.ClientFileRangeSetting) (stateio.DestinationFile, error) {
	w, err := a.find(bytes)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.window, a.mapped = w, true
	a.prepareOnce()
	return fd, nil
}

// find looks where the memory file is mapped. Its chunks lie side by side.
func (a *arrivals) find(bytes uint64) (window, error) {
	w := window{bytes: uintptr(bytes)}
	const chunkBytes = 1 << 30
	for start := uint64(0); start < bytes; start += chunkBytes {
		blocks, err := a.memory.MapInternal(memmap.FileRange{Start: start, End: start + pages.PageSize}, hostarch.Read)
		if err != nil {
			return w, fmt.Errorf("find the mapping of memory: %w", err)
		}
		addr := blocks.Head().Addr()
		if start == 0 {
			w.addr = addr
		}
		if addr != w.addr+uintptr(start) {
			return w, fmt.Errorf("memory from %#x on is mapped at %#x, want %#x behind the rest", start, addr, w.addr+uintptr(start))
		}
	}
	return w, nil
}

// AddRead implements stateio.AsyncReader.AddRead.
func (a *arrivals) AddRead(id int, off int64, f stateio.DestinationFile, fr memmap.FileRange, _ []byte) {
	a.AddReadv(id, off, fr.Length(), f, []memmap.FileRange{fr}, nil)
}

// AddReadv implements stateio.AsyncReader.AddReadv.
func (a *arrivals) AddReadv(id int, _ int64, total uint64, _ stateio.DestinationFile, ranges []memmap.FileRange, _ []unix.Iovec) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[id] = askedPages{bytes: total, ranges: slices.Clone(ranges)}
	if a.ready {
		a.ask(id)
	}
}

// ask completes a request of the kernel, or asks the pager for what is missing of it.
// The caller holds mu.
func (a *arrivals) ask(id int) {
	if a.complete(id) {
		return
	}
	for _, fr := range a.asked[id].ranges {
		a.urge(spanOf(fr))
	}
}

// complete completes a request of the kernel if it can be, and says whether it is. The
// caller holds mu.
func (a *arrivals) complete(id int) bool {
	asked := a.asked[id]
	if len(asked.ranges) == 0 {
		return true
	}
	for _, fr := range asked.ranges {
		if a.trap == nil && a.lacks(spanOf(fr)) {
			return false
		}
	}
	a.asked[id] = askedPages{}
	a.done = append(a.done, stateio.Completion{ID: id, N: asked.bytes})
	a.changed.Broadcast()
	return true
}

func spanOf(fr memmap.FileRange) pageSpan {
	return pageSpan{fr.Start / pages.PageSize, fr.End / pages.PageSize}
}

// lacks says whether a page of a span is missing. The caller holds mu.
func (a *arrivals) lacks(s pageSpan) bool {
	for range a.missing.RangesWithin(s.start, s.end) {
		return true
	}
	return false
}

// urge asks the pager for the missing pages of a span, if there is a pager. The
// caller holds mu.
func (a *arrivals) urge(s pageSpan) {
	if a.pager == nil {
		return
	}
	var need []pageSpan
	for start, end := range a.missing.RangesWithin(s.start, s.end) {
		need = append(need, pageSpan{start, end})
	}
	a.pager.need(need)
}

// Wait implements stateio.AsyncReader.Wait.
func (a *arrivals) Wait(cs []stateio.Completion, minCompletions int) ([]stateio.Completion, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.done) < minCompletions && a.err == nil {
		a.changed.Wait()
	}
	cs = append(cs, a.done...)
	a.done = a.done[:0]
	return cs, a.err
}

// await returns when pages [start, end) are there.
func (a *arrivals) await(start, end uint64) {
	s := &pageSpan{start, end}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || !a.lacks(*s) {
		return
	}
	a.waits[s] = struct{}{}
	a.urge(*s)
	for !a.over && a.lacks(*s) {
		a.changed.Wait()
	}
	delete(a.waits, s)
}

// prepared returns when tasks may run.
func (a *arrivals) prepared() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.ready && a.err == nil {
		a.changed.Wait()
	}
	return a.err
}

// left returns how many pages are still to come.
func (a *arrivals) left() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || !a.lasting {
		return 0
	}
	return max(1, a.missing.Count())
}

// placed takes note of pages that are in their place.
func (a *arrivals) placed(spans []pageSpan) error {
	came := &pages.Set{}
	a.mu.Lock()
	for !a.ready && a.err == nil {
		a.changed.Wait()
	}
	if a.err != nil {
		a.mu.Unlock()
		return a.err
	}
	for _, s := range spans {
		for start, end := range a.missing.RangesWithin(s.start, s.end) {
			came.AddRange(start, end)
		}
	}
	a.missing.Subtract(came)
	for id := range a.asked {
		a.complete(id)
	}
	last := a.missing.Empty() && !a.over
	a.changed.Broadcast()
	a.mu.Unlock()
	for start, end := range came.Ranges() {
		a.memory.DecRef(memmap.FileRange{Start: start * pages.PageSize, End: end * pages.PageSize})
	}
	if last {
		return a.finish()
	}
	return nil
}

// errComplete ends the connection to a pager that has done its work.
var errComplete = errors.New("all pages have come")

// finish ends the waiting, when the last page has come. It returns errComplete.
func (a *arrivals) finish() error {
	var err error
	if a.trap != nil {
		err = a.trap.Close()
	}
	a.mu.Lock()
	a.over = true
	a.changed.Broadcast()
	if a.lent != nil {
		a.lent.Close()
	}
	if a.pager != nil {
		// Where it does not arrive, the next pager is told.
		a.pager.tell(RequestDone, nil)
		a.pager.end()
		a.pager = nil
	}
	a.mu.Unlock()
	a.ended()
	if err != nil {
		return fmt.Errorf("memory is complete, but still trapped: %w", err)
	}
	return errComplete
}

// fail makes the kernel end, or not come to life. The caller holds mu.
func (a *arrivals) fail(err error) {
	if a.err == nil {
		a.err = err
		a.changed.Broadcast()
	}
}

// chargePieceBytes is how much memory is allocated at a time.
const chargePieceBytes = 1 << 20

// chargeMissing allocates memory for the missing pages, so that it is charged to this process and not to the pager that places
// them. It is for a kernel without a trap: with one, what is placed is charged to this process anyway.
func (a *arrivals) chargeMissing(charge func(start, end uint64) error) {
	a.mu.Lock()
	missing := a.missing.Clone()
	a.mu.Unlock()
	for start, end := range missing.Ranges() {
		for start < end {
			s := pageSpan{start, min(end, start+chargePieceBytes/pages.PageSize)}
			start = s.end
			a.mu.Lock()
			lacks := !a.over && a.lacks(s)
			a.mu.Unlock()
			if !lacks {
				continue
			}
			if err := charge(s.start*pages.PageSize, s.end*pages.PageSize); err != nil {
				log.Warningf("%v", err) // placing the pages fails, too
				return
			}
		}
	}
}
