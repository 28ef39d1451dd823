package migrate

import (
	"context"
	"time"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// leave finds the pages, among candidates, that the target lacks and that are left to
// be fetched after the start. Neither side's ledger has them from then on.
func (s *source) leave(ctx context.Context, candidates *pages.Set) (*pages.Set, error) {
	missing := candidates
	if s.rounds > 0 {
		var err error
		if missing, err = s.changed(ctx, candidates); err != nil {
			return nil, err
		}
	}
	for start, end := range missing.Ranges() {
		s.ledger.forget(start, end)
	}
	return missing, nil
}

// changed returns the pages, among candidates, that differ from what was sent.
func (s *source) changed(ctx context.Context, candidates *pages.Set) (*pages.Set, error) {
	size, err := s.memoryBytes()
	if err != nil {
		return nil, err
	}
	result, err := s.scanner.Round(ctx, int(s.memory.Fd()), size, candidates, func(uint64, []byte) error { return nil })
	if err != nil || result.Freed.Empty() {
		return result.Changed, err
	}
	for start, end := range result.Freed.Ranges() {
		s.ledger.forget(start, end)
	}
	return result.Changed, s.lanes.punch(result.Freed)
}

// fetching takes how many pages the target still lacks.
func (s *source) fetching(missing uint64) {
	if s.machine.Phase() == Announce {
		s.enter(Fetch)
		s.last = Event{PagesTotal: s.report.PagesFetched}
		s.fetchBegan = time.Now()
	}
	s.last.PagesRemaining = missing
	if fetched := max(s.report.PagesFetched, missing) - missing; fetched > 0 {
		s.last.LinkBytesPerSecond = float64(fetched*pages.PageSize) / time.Since(s.fetchBegan).Seconds()
	}
	s.last.ETA = ETAOf(missing, s.last.LinkBytesPerSecond).Nanoseconds()
	s.tell("")
}

// renew takes over new connections, after the old ones were lost.
func (s *source) renew(l *lanes) {
	s.stopForwarding() // it went over the old ones
	s.lanesBefore += s.lanes.wireBytes()
	s.lanes = l
}
