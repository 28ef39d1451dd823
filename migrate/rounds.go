package migrate

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/convergence"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// What a report says found the pages of a round.
const (
	trackerAll      = "all"
	trackerHashScan = "hash-scan"
	trackerProtect  = "write-protect"
)

const (
	// maxUnarmedRounds bounds the rounds before tracking begins.
	maxUnarmedRounds = 6
	// worthwhileShrinkage is how much smaller than the last an unarmed round must
	// be for another to pay.
	worthwhileShrinkage = 0.8
	// enoughPages is how little an unarmed round must find for the next to be armed: 4 MiB.
	enoughPages = 1024
	// What the stop costs apart from pages: kernel state, mostly, which grows with what runs inside.
	fixedDowntime      = 30 * time.Millisecond
	downtimePerProcess = 1000 * time.Microsecond
	downtimePerThread  = 300 * time.Microsecond
	// scanDowntimePerByte is what comparing all of memory costs in the stop, where
	// nothing tracks it.
	scanDowntimePerByte = 95 * float64(time.Millisecond) / (1 << 30)
)

// precopy sends memory while the sandbox runs, until the stop is short enough:
// first in rounds that compare all pages, which the sandbox does not notice, then
// in rounds of the pages that a tracker found.
func (s *source) precopy(ctx context.Context) error {
	s.scanner = pages.NewScanner(pages.ScanOptions{Workers: max(1, runtime.NumCPU()-1)})
	began := time.Now()
	defer func() { s.last.ThrottlePercent = 0 }() // the stop ends it, as does the end of the migration
	last := uint64(math.MaxUint64)
	for s.rounds < maxUnarmedRounds {
		r, err := s.round(ctx, nil, trackerHashScan)
		if err != nil {
			return err
		}
		sent := r.PagesSent + r.PagesZero
		s.note(r, string(convergence.ActionRound), "")
		if float64(sent) > worthwhileShrinkage*float64(last) || sent <= enoughPages {
			break
		}
		last = sent
	}
	// What is committed by that is sent with all other memory.
	if err := s.live.Populate(ctx); err != nil {
		return err
	}
	unsupported, err := s.live.Arm(ctx)
	if err != nil {
		return err
	}
	s.tracked = unsupported == ""
	if !s.tracked {
		s.report.Warnings = append(s.report.Warnings, "dirty pages are not tracked, all memory is compared in the stop: "+unsupported)
	}
	// Whatever was read before tracking began may have changed since.
	r, err := s.round(ctx, nil, trackerHashScan)
	if err != nil {
		return err
	}
	drain, err := s.converge(ctx, r, began)
	if err != nil {
		return err
	}
	// The rounds took a while: account anew for what the stop would look at.
	if _, err = s.live.Memory(ctx); err != nil || !drain {
		return err
	}
	return s.drain(ctx)
}

// drains says whether the stop that was decided comes after one more round, of what the last collection found. What is written
// meanwhile is less than that, or about as much where memory changes as fast as the link takes it.
func (s *source) drains(d convergence.Decision) bool {
	return d.Action == convergence.ActionStop && d.Reason == convergence.ReasonConverged && s.pending != nil && !s.pending.Empty()
}

// drain makes that round, right before the stop.
func (s *source) drain(ctx context.Context) error {
	only := s.pending
	s.pending = nil
	r, err := s.round(ctx, only, trackerProtect)
	if err != nil {
		return err
	}
	r.DirtyBytesPerSecond = s.last.DirtyBytesPerSecond
	left := uint64(r.DirtyBytesPerSecond * time.Duration(r.Nanoseconds).Seconds())
	r.PagesRemaining = left / pages.PageSize
	r.PredictedDowntime = int64(convergence.Predict(convergence.Measurements{
		RemainingBytes: left, LinkBytesPerSecond: s.linkRate(), FixedDowntime: s.fixedDowntime(),
	}))
	s.note(r, string(convergence.ActionStop), string(convergence.ReasonConverged))
	return nil
}

// converge makes rounds until the stop should come, after the round r. drain says that one more round goes before it.
func (s *source) converge(ctx context.Context, r RoundReport, began time.Time) (drain bool, err error) {
	var past []uint64
	lastCollect := time.Now()
	for {
		remaining, err := s.remaining(ctx, r)
		if err != nil {
			return false, err
		}
		now := time.Now()
		r.DirtyBytesPerSecond = float64(remaining) / max(now.Sub(lastCollect), time.Millisecond).Seconds()
		lastCollect = now
		r.PagesRemaining = remaining / pages.PageSize
		m := convergence.Measurements{
			Rounds: int(s.rounds), Elapsed: time.Since(began), RemainingBytes: remaining, PastBytes: past,
			DirtyBytesPerSecond: r.DirtyBytesPerSecond, LinkBytesPerSecond: s.linkRate(), FixedDowntime: s.fixedDowntime(),
			ThrottlePercent: s.last.ThrottlePercent,
		}
		d := convergence.Next(m, s.opts.Budget)
		if s.opts.Mode == Hybrid {
			d.Action = convergence.ActionPostCopy // it need not converge
		}
		if drain = s.drains(d); drain {
			d.Action, d.Reason = convergence.ActionRound, convergence.ReasonLast
		}
		r.PredictedDowntime = int64(d.PredictedDowntime)
		s.note(r, string(d.Action), string(d.Reason))
		if drain {
			return true, nil
		}
		switch d.Action {
		case convergence.ActionStop:
			return false, nil
		case convergence.ActionPostCopy:
			s.postcopy, s.report.Mode = true, string(Hybrid)
			return false, nil
		case convergence.ActionRound:
			past = append(past, remaining)
		case convergence.ActionThrottle:
			throttled, err := s.throttle(ctx, d.ThrottlePercent)
			if err != nil {
				return false, err
			}
			past = append(past, remaining)
			if throttled {
				// What earlier rounds found says nothing about those of a slower sandbox.
				past = nil
			}
		default:
			return false, fmt.Errorf("%w: %s after %d rounds, a stop now would take about %v",
				ErrNotConverged, d.Reason, s.rounds, d.PredictedDowntime.Round(time.Millisecond))
		}
		only, tracker := s.pending, trackerProtect
		if !s.tracked {
			only, tracker = nil, trackerHashScan
		}
		s.pending = nil
		if r, err = s.round(ctx, only, tracker); err != nil {
			return false, err
		}
	}
}

// throttle takes time from the sandbox, from now to the stop or the end of the migration. Where
// that is not possible it says so, and is not tried again.
func (s *source) throttle(ctx context.Context, percent int) (throttled bool, err error) {
	unsupported, err := s.live.Throttle(ctx, percent)
	if err != nil {
		return false, fmt.Errorf("throttle sandbox by %d %%: %w", percent, err)
	}
	if unsupported != "" {
		s.opts.Budget.MaxThrottlePercent = 0
		s.report.Warnings = append(s.report.Warnings, "the sandbox is not throttled: "+unsupported)
		return false, nil
	}
	s.last.ThrottlePercent = percent
	return true, nil
}

// remaining returns how much memory a stop would have to send now. Where pages
// are tracked, they are collected into pending.
func (s *source) remaining(ctx context.Context, last RoundReport) (bytes uint64, err error) {
	if !s.tracked {
		return (last.PagesSent + last.PagesZero) * pages.PageSize, nil
	}
	set, err := s.live.Collect(ctx)
	if err != nil {
		return 0, err
	}
	s.pending = set
	share := 1.0
	if last.Tracker == trackerProtect && last.PagesScanned > 0 {
		// The tracker names clusters; not all of their pages changed.
		share = float64(last.PagesSent+last.PagesZero) / float64(last.PagesScanned)
	}
	return uint64(share*float64(set.Count())) * pages.PageSize, nil
}

// fixedDowntime is what the stop costs whatever is dirty.
func (s *source) fixedDowntime() time.Duration {
	fixed := fixedDowntime
	for _, p := range s.survey.Processes {
		fixed += downtimePerProcess + time.Duration(p.Threads)*downtimePerThread
	}
	if s.tracked {
		return fixed
	}
	return fixed + time.Duration(scanDowntimePerByte*float64(s.ledger.known().Count()*pages.PageSize))
}

// round sends what changed among some pages, or all if only is nil, and waits
// until it is in its place.
func (s *source) round(ctx context.Context, only *pages.Set, tracker string) (RoundReport, error) {
	began := time.Now()
	sent, zero, punched, wireBytes := s.lanes.pagesSent.Load(), s.lanes.pagesZero.Load(), s.lanes.pagesPunched.Load(), s.lanes.wireBytes()
	duplicate := s.lanes.pagesDuplicate.Load()
	s.rounds++
	s.last.Round = int(s.rounds)
	s.tell("")
	result, err := s.scan(ctx, only)
	if err != nil {
		return RoundReport{}, fmt.Errorf("round %d: %w", s.rounds, err)
	}
	if err := s.lanes.barrier(s.rounds); err != nil {
		return RoundReport{}, err
	}
	size, err := s.memoryBytes()
	if err != nil {
		return RoundReport{}, err
	}
	files := []wire.MemoryFile{{Stream: memoryStream, Pages: size / pages.PageSize}}
	if err := s.link.control.Send(&wire.Round{Number: s.rounds, Files: files}); err != nil {
		return RoundReport{}, err
	}
	if _, err := expectRunning[*wire.Placed](ctx, s, s.idlePatience); err != nil {
		return RoundReport{}, err
	}
	failpoint.Here(failpoint.SourceRound)
	if s.rounds == 1 {
		tracker = trackerAll
	}
	took := time.Since(began)
	r := RoundReport{
		Number: int(s.rounds), Tracker: tracker, Nanoseconds: took.Nanoseconds(), PagesScanned: result.PagesScanned,
		PagesSent: s.lanes.pagesSent.Load() - sent, PagesZero: s.lanes.pagesZero.Load() - zero,
		PagesDuplicate: s.lanes.pagesDuplicate.Load() - duplicate,
		PagesPunched:   s.lanes.pagesPunched.Load() - punched, WireBytes: s.lanes.wireBytes() - wireBytes,
		ThrottlePercent: s.last.ThrottlePercent,
	}
	s.measure(r)
	r.LinkBytesPerSecond = s.linkRate()
	return r, nil
}

// minMeasured is the least that a round must have sent for its rate to count.
const minMeasured = 1 << 20

// measure learns how fast memory reaches the target. Pages of zeros take no time and do not count: the stop has few.
func (s *source) measure(r RoundReport) {
	moved := r.PagesSent * pages.PageSize
	rate := float64(max(moved, minMeasured)) / max(time.Duration(r.Nanoseconds), time.Millisecond).Seconds()
	// The link is at least as fast as any round. One that mostly compared says no more than that.
	telling := moved >= minMeasured && r.PagesSent >= r.PagesScanned/4
	faster := moved >= minMeasured && rate > s.last.LinkBytesPerSecond
	if telling || faster || s.last.LinkBytesPerSecond == 0 {
		s.last.LinkBytesPerSecond = rate
	}
}

func (s *source) linkRate() float64 { return s.last.LinkBytesPerSecond }

// note puts a round into the report, and tells about it.
func (s *source) note(r RoundReport, decision, reason string) {
	r.Decision, r.Reason = decision, reason
	s.report.Rounds = append(s.report.Rounds, r)
	s.last.PagesRemaining, s.last.PagesTotal = r.PagesRemaining, r.PagesScanned
	s.last.DirtyBytesPerSecond, s.last.PredictedDowntime = r.DirtyBytesPerSecond, r.PredictedDowntime
	s.last.ETA = ETAOf(r.PagesRemaining, r.LinkBytesPerSecond).Nanoseconds()
	message := decision
	if reason != "" {
		message += " (" + reason + ")"
	}
	s.tell(message)
}
