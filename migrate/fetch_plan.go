package migrate

import (
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Bounds of what a fetch asks for ahead of the kernel.
const (
	// chunkPages is the most that is asked for at once.
	chunkPages = (128 << 10) / pages.PageSize
	// maxAheadPages bounds what flies.
	maxAheadPages = (32 << 20) / pages.PageSize
	// recentNeeds is how many of the kernel's requests are remembered, and
	// followPages how far behind each one the next is expected.
	recentNeeds = 8
	followPages = (256 << 10) / pages.PageSize
	// minSlack is the least by which pages may come later than the fastest did before they
	// count as queueing on the way, as what a task waits for would, too.
	minSlack = time.Millisecond
	// touchedPages is how much is asked for where the kernel touches one page, and widePages
	// where more is likely to be needed than somebody waits for. They are powers of two.
	touchedPages = (16 << 10) / pages.PageSize
	widePages    = (64 << 10) / pages.PageSize
	// farAway is how long the fastest page takes on a link whose delay counts more than how much
	// it takes at a time.
	farAway = 2 * time.Millisecond
	// minWindow keeps the link busy while an answer is on its way.
	minWindow = 2 * chunkPages
	// urgentWindow is how much more may fly of what somebody waits for.
	urgentWindow = 2 * chunkPages
	// calm is how long after a need nothing is asked for ahead, in the first haste after the
	// start: tasks then touch one page after the other of those that they work with, and what
	// is on its way delays each.
	calm  = 3 * time.Millisecond
	haste = time.Second
	// oldestTurn is how often the oldest need goes first.
	oldestTurn = 4
)

// fetchPlan is in which order pages are asked for: those that the kernel asks for, then those
// that follow its newest requests, then the lowest. Of the kernel's requests the newest
// goes first: where accesses do not wait page by page, most are for pages that nobody waits
// for yet, and a new one is made only when one is answered, so that what a task waits for is
// among the newest. No more is asked for at a time than the link takes without a queue. It is
// a part of a fetch and has no lock of its own.
type fetchPlan struct {
	asked  *pages.Set     // on the connections at hand
	urgent [][]wire.Range // to be asked for, oldest first
	turn   int            // counts what was taken from urgent
	recent []uint64       // ends of the kernel's requests, newest first
	low    uint64         // no page below can be asked for

	// began is when the kernel was started, or taken over; zero before: nothing is asked for ahead,
	// which would take time from its loading.
	began  time.Time
	needed time.Time // when somebody last began to wait

	flying uint64 // pages of asked
	window uint64 // no more are asked for while so many fly
	// askedAt is when something was asked for, by its first page.
	askedAt map[uint64]time.Time
	best    time.Duration // the least that one took; 0 before the first
}

func newFetchPlan() fetchPlan {
	return fetchPlan{asked: &pages.Set{}, window: minWindow, askedAt: make(map[uint64]time.Time)}
}

// restart forgets what was asked for: the connections are gone.
func (p *fetchPlan) restart() {
	p.asked, p.flying, p.low, p.urgent = &pages.Set{}, 0, 0, nil
	clear(p.askedAt)
}

// widen adds to what somebody waits for what comes for the same delay, on a long way, and what
// is needed next where one need follows another.
func (p *fetchPlan) widen(runs []image.Run) []image.Run {
	var wide []image.Run
	for _, run := range runs {
		switch {
		case run.Count >= widePages:
			wide = append(wide, run)
		case slices.Contains(p.recent, run.First):
			wide = append(wide, image.Run{First: run.First, Count: widePages})
		case p.best >= farAway:
			wide = append(wide, around(run, widePages)...)
		default:
			wide = append(wide, run)
		}
	}
	return wide
}

// around is the aligned block of so many pages that a run begins in, with the run first, which
// may go beyond it.
func around(run image.Run, block uint64) []image.Run {
	start := run.First &^ (block - 1)
	end := max(start+block, run.First+run.Count)
	list := []image.Run{{First: run.First, Count: end - run.First}}
	if start < run.First {
		list = append(list, image.Run{First: start, Count: run.First - start})
	}
	return list
}

// wanted takes a request of the kernel.
func (p *fetchPlan) wanted(runs []image.Run, missing *pages.Set, now time.Time) {
	p.needed = now
	var need []wire.Range
	for _, run := range runs {
		need = p.lacking(need, missing, run.First, run.First+run.Count)
		p.recent = slices.Insert(p.recent, 0, run.First+run.Count)
	}
	p.recent = p.recent[:min(len(p.recent), recentNeeds)]
	p.urge(need)
}

// urge makes pages urgent.
func (p *fetchPlan) urge(need []wire.Range) {
	if len(need) > 0 {
		p.urgent = append(p.urgent, need)
	}
}

// lacking appends what is to be asked for between two pages.
func (p *fetchPlan) lacking(list []wire.Range, missing *pages.Set, from, to uint64) []wire.Range {
	for {
		r, ok := p.free(missing, from, to)
		if !ok {
			return list
		}
		list, from = append(list, r), r.End()
	}
}

// nextUrgent returns what to ask for before everything else, if there is anything.
func (p *fetchPlan) nextUrgent(missing *pages.Set, now time.Time) []wire.Range {
	for len(p.urgent) > 0 && p.flying < p.window+urgentWindow {
		at := len(p.urgent) - 1
		if p.turn++; p.turn%oldestTurn == 0 {
			at = 0
		}
		need := p.urgent[at]
		p.urgent = slices.Delete(p.urgent, at, at+1)
		// Meanwhile some may have been asked for ahead, or have come after all on a connection
		// that was just lost. What is widened may overlap: each page is asked for, and counted, once.
		var out []wire.Range
		for _, r := range need {
			for _, piece := range p.lacking(nil, missing, r.Page, r.End()) {
				p.ask(piece)
				out = append(out, piece)
			}
		}
		if len(out) > 0 {
			p.askedAt[out[0].Page] = now
			return out
		}
	}
	return nil
}

func (p *fetchPlan) ask(r wire.Range) {
	p.asked.AddRange(r.Page, r.End())
	p.flying += r.Count
}

// nextAhead returns what to ask for ahead of the kernel.
func (p *fetchPlan) nextAhead(missing *pages.Set, now time.Time) (wire.Range, bool) {
	if len(p.urgent) > 0 || p.flying >= p.window || p.rest(now) > 0 {
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

// rest is for how long nothing is to be asked for ahead.
func (p *fetchPlan) rest(now time.Time) time.Duration {
	switch {
	case p.began.IsZero():
		return haste
	case now.Sub(p.began) < haste:
		return max(0, calm-now.Sub(p.needed))
	}
	return 0
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
// they come about as fast as the fastest did, less when they begin to queue.
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
		if took <= p.best+max(p.best, minSlack) {
			p.window = min(p.window+chunkPages, maxAheadPages)
		} else {
			p.window = max(p.window*3/4, minWindow)
		}
	}
}
