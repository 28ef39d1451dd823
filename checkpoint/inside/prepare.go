package inside

import (
	"fmt"
	"slices"

	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// prepareOnce prepares when all is known that is needed for that. The caller holds mu.
func (a *arrivals) prepareOnce() {
	if a.missing == nil || !a.mapped || a.preparing {
		return
	}
	a.preparing = true
	go func() {
		err := a.prepare(a.missing, a.window) // no page comes before that is done
		a.mu.Lock()
		defer a.mu.Unlock()
		if err != nil {
			a.fail(err)
			return
		}
		if a.trap != nil && a.lasting && a.pager != nil {
			a.pager.tell(RequestMapped, []byteSpan{{uint64(a.window.addr), uint64(a.window.addr + a.window.bytes)}})
		}
		a.ready = true
		for id := range a.asked {
			a.ask(id)
		}
		a.over = !a.lasting
		a.changed.Broadcast()
	}()
}

// prepare makes missing pages be kept and waited for.
func (a *arrivals) prepare(missing *pages.Set, w window) error {
	if missing.Empty() {
		if a.trap != nil {
			return a.trap.Close()
		}
		return nil
	}
	if err := keep(a.memory, missing); err != nil {
		return err
	}
	if a.trap == nil {
		return nil
	}
	// It stops all threads, which nobody can do any more once one may wait for memory.
	a.begun(a.await)
	for _, s := range cover(missing, maxTraps) {
		if err := a.trap.Watch(w.addr+uintptr(s.start*pages.PageSize), uintptr((s.end-s.start)*pages.PageSize)); err != nil {
			return err
		}
	}
	return nil
}

// keep takes a reference to every page of a set.
func keep(memory frames, set *pages.Set) (err error) {
	defer func() {
		// The kernel panics for a frame that is not in use.
		if reason := recover(); reason != nil {
			err = fmt.Errorf("pages are said to be missing that the kernel does not have: %v", reason)
		}
	}()
	for start, end := range set.Ranges() {
		memory.IncRef(memmap.FileRange{Start: start * pages.PageSize, End: end * pages.PageSize}, 0)
	}
	return nil
}

// maxTraps bounds the pieces of a mapping that are trapped: each costs time in the stop.
const maxTraps = 256

// cover returns spans that hold all pages of a set: its ranges, or as many as allowed, with the
// smallest gaps filled. A hole in a gap is trapped too; the pager fills it with zeros.
func cover(set *pages.Set, limit int) []pageSpan {
	var spans []pageSpan
	var gaps []uint64
	for start, end := range set.Ranges() {
		if len(spans) > 0 {
			gaps = append(gaps, start-spans[len(spans)-1].end)
		}
		spans = append(spans, pageSpan{start, end})
	}
	if len(spans) <= limit {
		return spans
	}
	slices.Sort(gaps)
	widest := gaps[len(spans)-limit-1] // so many must be filled
	merged := spans[:1]
	for _, s := range spans[1:] {
		if last := &merged[len(merged)-1]; s.start-last.end <= widest {
			last.end = s.end
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}
