package migrate

import (
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Bounds of what a fetch asks for ahead of the kernel.
const (
	// chunkPages is the most that is asked for at once.
	chunkPages = (128 << 10) / pages.PageSize
	// maxAheadPages bounds what has come, or is to come, before the kernel asked for it.
	maxAheadPages = (32 << 20) / pages.PageSize
	// recentNeeds is how many of the kernel's requests are remembered, and
	// followPages how far behind each one the next is expected.
	recentNeeds = 8
	followPages = (256 << 10) / pages.PageSize
	// latencySlack is how much later than the first ones pages may come: they queue on
	// the way then, and so would what a task waits for.
	latencySlack = 5 * time.Millisecond
)

// fetchPlan is in which order pages are asked for: those that the kernel asks for, then, as
// far as the link has room, those that follow its newest requests, then the lowest.
// It is a part of a fetch and has no lock of its own.
type fetchPlan struct {
	asked  *pages.Set   // on the connections at hand
	urgent []wire.Range // to be asked for
	recent []uint64     // ends of the kernel's requests, newest first
	low    uint64       // no page below can be asked for

	flying uint64 // pages of asked
	window uint64 // how many may fly ahead of the kernel
	// askedAt is when a chunk was asked for ahead, by its first page.
	askedAt map[uint64]time.Time
	best    time.Duration // the least that one took; 0 before the first
}

func newFetchPlan() fetchPlan {
	return fetchPlan{asked: &pages.Set{}, window: chunkPages, askedAt: make(map[uint64]time.Time)}
}

// restart forgets what was asked for: the connections are gone.
func (p *fetchPlan) restart() {
	p.asked, p.flying, p.low, p.urgent = &pages.Set{}, 0, 0, nil
	clear(p.askedAt)
}

// wanted takes a range that the kernel asks for.
func (p *fetchPlan) wanted(start, end uint64, missing *pages.Set) {
	for s, e := range missing.RangesWithin(start, end) {
		for page := s; page < e; page++ {
			if !p.asked.Has(page) {
				p.push(page)
			}
		}
	}
	p.recent = slices.Insert(p.recent, 0, end)
	p.recent = p.recent[:min(len(p.recent), recentNeeds)]
}

// push makes a page urgent.
func (p *fetchPlan) push(page uint64) {
	if n := len(p.urgent); n > 0 && p.urgent[n-1].End() == page {
		p.urgent[n-1].Count++
	} else {
		p.urgent = append(p.urgent, wire.Range{Page: page, Count: 1})
	}
}

// nextUrgent returns what to ask for before everything else, if there is anything.
func (p *fetchPlan) nextUrgent(missing *pages.Set) []wire.Range {
	var out []wire.Range
	for _, r := range p.urgent {
		// On a connection that was just lost something may have come after all.
		for start, end := range missing.RangesWithin(r.Page, r.End()) {
			out = append(out, wire.Range{Page: start, Count: end - start})
		}
	}
	p.urgent = nil
	for _, r := range out {
		p.ask(r)
	}
	return out
}

func (p *fetchPlan) ask(r wire.Range) {
	p.asked.AddRange(r.Page, r.End())
	p.flying += r.Count
}

// nextAhead returns what to ask for ahead of the kernel, given how much is staged.
func (p *fetchPlan) nextAhead(missing *pages.Set, staged int, now time.Time) (wire.Range, bool) {
	if p.flying >= p.window || p.flying+uint64(staged) >= maxAheadPages {
		return wire.Range{}, false
	}
	for _, end := range p.recent {
		if r, ok := p.free(missing, end, end+followPages); ok {
			return p.askAhead(r, now), true
		}
	}
	r, ok := p.free(missing, p.low, pages.MaxPages)
	if !ok {
		p.low = pages.MaxPages
		return r, false
	}
	p.low = r.Page
	return p.askAhead(r, now), true
}

func (p *fetchPlan) askAhead(r wire.Range, now time.Time) wire.Range {
	p.ask(r)
	p.askedAt[r.Page] = now
	return r
}

// free returns the first run of pages between two that can be asked for, at most a
// chunk.
func (p *fetchPlan) free(missing *pages.Set, from, to uint64) (wire.Range, bool) {
	for start, end := range missing.RangesWithin(from, to) {
		for start < end && p.asked.Has(start) {
			start++
		}
		stop := start
		for stop < min(end, start+chunkPages) && !p.asked.Has(stop) {
			stop++
		}
		if stop > start {
			return wire.Range{Page: start, Count: stop - start}, true
		}
	}
	return wire.Range{}, false
}

// came takes pages that have come, and learns how much may fly: more as long as
// chunks come as fast as the first did, less when they begin to queue.
func (p *fetchPlan) came(start, end uint64, now time.Time) {
	for page := start; page < end; page++ {
		if p.asked.Has(page) {
			p.asked.Remove(page)
			p.flying--
		}
		at, ok := p.askedAt[page]
		if !ok {
			continue
		}
		delete(p.askedAt, page)
		took := now.Sub(at)
		if p.best == 0 || took < p.best {
			p.best = took
		}
		if took <= p.best+latencySlack {
			p.window = min(p.window+chunkPages, maxAheadPages)
		} else {
			p.window = max(p.window*3/4, chunkPages)
		}
	}
}
