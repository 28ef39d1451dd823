package migrate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// inlinePages are the pages that a stop gives with their content.
const inlinePages = inside.InlineBytes / pages.PageSize

// stop pauses the sandbox and sends all that the target lacks, until that is
// prepared. After an error the sandbox may still be paused.
func (s *source) stop(ctx context.Context) error {
	if s.scanner == nil {
		s.scanner = pages.NewScanner(pages.ScanOptions{Workers: runtime.NumCPU()})
	}
	state := &pipe{lanes: s.lanes, on: 0, typ: wire.TypeState}
	meta := &pipe{lanes: s.lanes, on: 1, typ: wire.TypeMeta}
	s.enter(Pause)
	var memory *checkpoint.SavedMemory
	var missing *pages.Set
	stopped, err := s.live.Stop(ctx, checkpoint.Sinks{
		Stopped: func() {
			s.enter(State)
			failpoint.Here(failpoint.SourceStopped)
			// A failed send shows when the answer is waited for.
			s.link.control.Send(&wire.Freeze{})
			if len(s.survey.Network.Links) > 0 {
				s.startForwarding()
			}
		},
		Memory: func(ctx context.Context, m *checkpoint.SavedMemory) (err error) {
			memory = m
			missing, err = s.residual(ctx, m)
			return err
		},
		State: state, Metadata: meta, Connections: len(s.report.Connections) > 0,
	})
	if err != nil {
		return err
	}
	if !sameContainers(s.survey.Containers, stopped.Containers) {
		return errContainers
	}
	if !covers(s.survey.Sessions, stopped.Sessions) {
		return errNewSession
	}
	for _, p := range []*pipe{state, meta} {
		if err := p.end(); err != nil {
			return err
		}
	}
	s.enter(Residual)
	if err := s.audit(memory, missing); err != nil {
		return err
	}
	if err := s.lanes.barrier(s.rounds + 1); err != nil {
		return err
	}
	totals := wire.Totals{
		StateBytes: state.sum.bytes, StateDigest: state.sum.digest(),
		MetaBytes: meta.sum.bytes, MetaDigest: meta.sum.digest(),
		CommittedPages: memory.Committed.Count(), MissingPages: missing.Count(), PagesDigest: s.ledger.digest(),
	}
	s.report.StateBytes, s.report.MetaBytes, s.report.PagesCommitted = totals.StateBytes, totals.MetaBytes, totals.CommittedPages
	s.report.PagesFetched = totals.MissingPages
	if s.postcopy {
		// At once: the kernel may need a page to be loaded.
		s.pages = &pageService{memory: s.memory, codec: s.opts.Codec, pace: wire.NewPace(s.opts.BytesPerSecond), renewed: s.renew}
		if err := s.pages.begin(s.lanes); err != nil {
			return err
		}
	}
	terminals, err := terminalsOf(stopped)
	if err != nil {
		return err
	}
	lost, err := s.lostConnections(stopped)
	if err != nil {
		return err
	}
	if err := s.link.control.Send(&wire.Handover{Totals: totals, Epoch: s.epoch, Terminals: terminals, Connections: lost}); err != nil {
		return err
	}
	s.enter(Load)
	failpoint.Here(failpoint.SourceSent)
	return s.awaitPrepared(ctx, totals)
}

// errPagesLost is why a source does not wait for its target to be prepared: nobody can
// ask it for pages any more.
var errPagesLost = errors.New("data connection ended before the target was prepared")

// refusalPatience is how much later than the end of its connections a target's refusal
// may come.
const refusalPatience = time.Second

func (s *source) awaitPrepared(ctx context.Context, totals wire.Totals) error {
	ctx, cancel := context.WithTimeoutCause(ctx, preparedTimeout, errNotPrepared)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if s.pages != nil {
		// The target may need pages to be prepared.
		failed := s.pages.failed()
		go func() {
			select {
			case <-failed:
				// If it has refused, that says more, and comes at once.
				time.AfterFunc(refusalPatience, func() { end(errPagesLost) })
			case <-ctx.Done():
			}
		}()
	}
	if _, err := expect[*wire.Announced](ctx, s.link); err != nil {
		return err
	}
	prepared, err := expect[*wire.Prepared](ctx, s.link)
	if err != nil {
		return err
	}
	if prepared.Totals != totals {
		return fmt.Errorf("target has %+v, was sent %+v", prepared.Totals, totals)
	}
	s.report.TargetLoad = prepared.LoadNanoseconds
	return nil
}

// residual sends the saved kernel's pages that the target lacks, or, in post-copy, only
// names them. It does so while the kernel is being encoded.
func (s *source) residual(ctx context.Context, stopped *checkpoint.SavedMemory) (_ *pages.Set, err error) {
	candidates := stopped.Committed.Clone()
	if s.tracked && stopped.Dirty != nil {
		changed := stopped.Dirty
		if s.pending != nil {
			changed.Union(s.pending)
		}
		unknown := stopped.Committed.Clone()
		unknown.Subtract(s.ledger.known())
		// What is a hole here as on the target, is zeros on both: after an earlier move there are many of those.
		if unknown, err = pages.CommittedAmong(int(s.memory.Fd()), unknown); err != nil {
			return nil, err
		}
		changed.Union(unknown)
		candidates.Intersect(changed)
	} else if s.tracked {
		s.report.Warnings = append(s.report.Warnings, "the last collection of dirty pages failed: all memory was compared in the stop")
	}
	candidates.RemoveRange(0, inlinePages)
	for _, p := range stopped.Inline {
		if err := s.lanes.pages(p.First, p.Data, s.ledger.place(p.First, p.Data)); err != nil {
			return nil, err
		}
	}
	missing := &pages.Set{}
	if s.postcopy {
		missing, err = s.leave(ctx, candidates)
	} else {
		err = s.sendResidual(ctx, candidates)
	}
	if err != nil {
		return nil, err
	}
	// What the saved kernel does not have becomes a hole on both sides.
	s.ledger.keep(stopped.Committed)
	if err := s.lanes.wholeList(wire.TypeCommitted, stopped.Committed); err != nil {
		return nil, err
	}
	if s.opts.wireMode().MayLeavePages() {
		if err := s.lanes.wholeList(wire.TypeMissing, missing); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

func (s *source) sendResidual(ctx context.Context, candidates *pages.Set) error {
	result, err := s.send(func(size uint64, visit pages.Visit) (pages.ScanResult, error) {
		return s.scanner.RoundOf(ctx, int(s.memory.Fd()), size, candidates, visit)
	})
	s.report.PagesResidual = result.Changed.Count()
	return err
}

// audit compares all memory with what was sent, where that is asked for.
func (s *source) audit(stopped *checkpoint.SavedMemory, missing *pages.Set) error {
	if !s.opts.Verify {
		return nil
	}
	size, err := s.memoryBytes()
	if err != nil {
		return err
	}
	result, err := pages.Audit(int(s.memory.Fd()), size, &s.scanner.Table)
	if err != nil {
		return err
	}
	missed := result.Missed
	missed.Intersect(stopped.Committed)
	missed.RemoveRange(0, inlinePages)
	missed.Subtract(missing)
	if n := missed.Count(); n > 0 {
		return fmt.Errorf("%w: %d of %d pages differ from what was sent", ErrAudit, n, result.PagesChecked)
	}
	s.report.Warnings = append(s.report.Warnings, fmt.Sprintf("audited: %d pages, none differs from what was sent", result.PagesChecked))
	return nil
}

// scan sends what changed among some pages, or all if only is nil.
func (s *source) scan(ctx context.Context, only *pages.Set) (pages.ScanResult, error) {
	return s.send(func(size uint64, visit pages.Visit) (pages.ScanResult, error) {
		return s.scanner.Round(ctx, int(s.memory.Fd()), size, only, visit)
	})
}

// send sends what a round over memory finds.
func (s *source) send(round func(sizeBytes uint64, visit pages.Visit) (pages.ScanResult, error)) (pages.ScanResult, error) {
	size, err := s.memoryBytes()
	if err != nil {
		return pages.ScanResult{}, err
	}
	result, err := round(size, func(first uint64, data []byte) error {
		return s.lanes.pages(first, data, s.ledger.place(first, data))
	})
	if err != nil || result.Freed.Empty() {
		return result, err
	}
	for start, end := range result.Freed.Ranges() {
		s.ledger.forget(start, end)
	}
	return result, s.lanes.punch(result.Freed)
}

func (s *source) memoryBytes() (uint64, error) {
	info, err := s.memory.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of sandbox memory: %w", err)
	}
	return uint64(info.Size()), nil
}

// forwardInterval is how often frames at the shut gates are looked for.
const forwardInterval = 3 * time.Millisecond

// startForwarding forwards until stopForwarding is called.
func (s *source) startForwarding() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.forward(ctx)
	}()
	s.stopForwarding = func() {
		cancel()
		<-done
	}
}

// forward hands frames that reach the stopped sandbox over to the target. What
// cannot be sent is lost, as on any network.
func (s *source) forward(ctx context.Context) {
	ticker := time.NewTicker(forwardInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		frames, err := s.live.Frames(ctx)
		if err != nil {
			return
		}
		for _, f := range frames {
			if len(f.Data) > wire.MaxPacketBytes || f.NIC < 0 || f.NIC >= wire.MaxStreams {
				continue
			}
			s.report.PacketsQueued++
			if s.lanes.frame(0, wire.TypePacket, uint16(f.NIC), wire.AppendPacket(nil, packetOf(f)), true) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func packetOf(f network.Frame) wire.Packet {
	g := f.Segmentation
	return wire.Packet{
		Outbound: f.Direction == network.Outbound, ChecksumValid: f.ChecksumValid,
		SegmentationType: g.Type, NeedsChecksum: g.NeedsChecksum, ChecksumOffset: g.ChecksumOffset,
		HeaderBytes: g.HeaderBytes, NetworkBytes: g.NetworkBytes, MSSBytes: g.MSSBytes, MaxBytes: g.MaxBytes, Data: f.Data,
	}
}

func frameOf(nic uint16, p wire.Packet) network.Frame {
	direction := network.Inbound
	if p.Outbound {
		direction = network.Outbound
	}
	return network.Frame{
		NIC: int32(nic), Direction: direction, ChecksumValid: p.ChecksumValid, Data: p.Data,
		Segmentation: network.Segmentation{
			Type: p.SegmentationType, NeedsChecksum: p.NeedsChecksum, ChecksumOffset: p.ChecksumOffset,
			HeaderBytes: p.HeaderBytes, NetworkBytes: p.NetworkBytes, MSSBytes: p.MSSBytes, MaxBytes: p.MaxBytes,
		},
	}
}
