package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Migrate moves a sandbox to another host. Where the error is not an
// ErrUnresolved, the sandbox runs on here as if nothing had happened. The report
// is complete in any case.
func Migrate(ctx context.Context, sb *sandbox.Sandbox, opts Options) (Report, error) {
	opts = opts.withDefaults()
	if opts.Bundle == "" {
		opts.Bundle = sb.Bundle
	}
	report, again, err := migrate(ctx, sb, opts, true)
	if again {
		// The next plan knows the process. A sandbox that starts one all the time may prevent that once more.
		first := report
		report, _, err = migrate(ctx, sb, opts, false)
		report.addAttempt(first)
		if err == nil {
			report.Warnings = append(report.Warnings, "it was moved in a second attempt: during the first, a process was started inside by exec, or a container was started or ended")
		}
	}
	return report, err
}

// migrate makes one attempt. opts is complete. Where retry is possible and makes
// sense, it says so instead of telling the end.
func migrate(ctx context.Context, sb *sandbox.Sandbox, opts Options, retry bool) (_ Report, again bool, err error) {
	s := &source{
		sb: sb, opts: opts, machine: NewMachine(Source), idlePatience: idlePatience,
		to: whereTo{identity: opts.Identity, peer: opts.Peer, address: opts.Address},
		report: Report{
			Version: ReportVersion, Sandbox: sb.ID, Role: Source, Peer: opts.Peer.Name, Address: opts.Address,
			Mode: string(opts.Mode), Codec: opts.Codec.String(), Rounds: []RoundReport{}, Warnings: []string{}, Connections: []wire.Fate{},
		},
	}
	err = s.run(ctx)
	if err != nil && !s.machine.Phase().Final() {
		s.finish(Aborted, err)
	}
	s.report.WireBytes = s.wireBytes()
	s.report.SetTiming(s.machine.Timing())
	again = retry && (errors.Is(err, errNewSession) || errors.Is(err, errContainers)) && s.resumed && ctx.Err() == nil && !opts.Canceller.isCancelled()
	if !again {
		s.tell(s.report.Reason)
	}
	if err != nil {
		err = fmt.Errorf("migrate sandbox %q to %s: %w", sb.ID, opts.Peer.Name, err)
	}
	return s.report, again, err
}

// source is a migration under way, from the source's side.
type source struct {
	sb      *sandbox.Sandbox
	opts    Options
	to      whereTo
	machine *Machine
	report  Report

	handover *handover.Source
	id       attempt.ID
	epoch    attempt.Epoch
	hello    *wire.Hello
	link     *link
	lanes    *lanes
	// idlePatience is the constant of that name, but in tests.
	idlePatience time.Duration

	live    *checkpoint.Live
	memory  *os.File
	survey  *inside.Survey
	scanner *pages.Scanner
	ledger  ledger
	rounds  uint64 // sent so far, and the number of the last barrier
	tracked bool   // dirty pages are tracked
	// pending are dirty pages that a collection named and that are not sent.
	pending *pages.Set
	// postcopy: what the stop finds is left to be fetched after the start.
	postcopy bool
	// pages serves that; nil otherwise.
	pages      *pageService
	fetchBegan time.Time
	// lanesBefore is what went over connections that were lost.
	lanesBefore uint64
	// stopForwarding ends the forwarding of frames, and returns when it has ended.
	stopForwarding func()
	collect        func() // lets garbage be collected again; may be called twice
	resumed        bool   // an abort went well
	yielded        bool   // this process has been nice since the start on the target
	last           Event  // the newest progress, without its time
}

func (s *source) tell(message string) {
	e := s.last
	e.Time, e.Sandbox, e.Phase, e.Message = time.Now(), s.sb.ID, s.machine.Phase(), message
	e.WireBytes = s.wireBytes()
	s.opts.OnEvent(e)
}

func (s *source) wireBytes() uint64 {
	if s.lanes == nil {
		return 0
	}
	return s.lanesBefore + s.lanes.wireBytes()
}

// enter goes to a phase. That the phases allow it is this file's business.
func (s *source) enter(p Phase) {
	if err := s.machine.Enter(p); err != nil {
		panic(err)
	}
	s.tell("")
}

// finish ends the migration otherwise than done.
func (s *source) finish(p Phase, cause error) {
	if err := s.machine.Fail(p, cause.Error()); err != nil {
		s.machine.Fail(Unresolved, cause.Error())
	}
}

func (s *source) run(ctx context.Context) error {
	if err := s.checkArrived(); err != nil {
		return err
	}
	j, err := journal.Open(s.opts.Journals, s.sb.ID)
	if err != nil {
		return err
	}
	defer j.Close()
	other := &counterpart{to: s.to, heard: s.heard}
	s.handover = &handover.Source{
		Journal: j, Counterpart: other,
		Original: original{root: s.opts.Root, id: s.sb.ID, to: fmt.Sprintf("%s (%s)", s.opts.Peer.Name, s.opts.Address),
			disarm: func(ctx context.Context) error { return s.live.Disarm(ctx) }},
	}
	if s.id, s.epoch, err = s.handover.Begin(s.peer()); err != nil {
		return err
	}
	s.report.Attempt, s.report.Epoch = s.id, s.epoch
	s.stopForwarding, s.collect = func() {}, func() {}
	defer func() {
		s.collect()
		s.stopForwarding()
		if s.pages != nil {
			s.pages.hangUp()
		}
		if s.live != nil {
			s.live.Close()
		}
		if s.lanes != nil {
			s.lanes.close()
		}
		if s.yielded {
			setNice(niceStop) // its caller may have other things to do
		}
	}()
	failpoint.Here(failpoint.SourceBegun)
	cancellable, cancel := s.opts.Canceller.begin(ctx)
	defer cancel(nil)
	err = s.prepare(cancellable)
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		err = s.refusalOr(cancellable, err)
	}
	if err == nil {
		failpoint.Here(failpoint.SourcePrepared)
		err = s.opts.Canceller.commit()
	}
	if err != nil {
		if cause := context.Cause(cancellable); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return s.abort(ctx, err)
	}
	other.link, other.hello = s.link, s.hello
	other.pages = s.pages
	return s.commit(ctx, other)
}

// checkArrived refuses a sandbox that has not completely come here.
func (s *source) checkArrived() error {
	h, err := journal.Read(s.opts.Journals, s.sb.ID)
	if err != nil {
		return nil // Open says what is wrong, if it is
	}
	last, ok := h.Current()
	if ok && last.Role == journal.Target && last.State.Arriving() && s.sb.Sandbox.Alive() {
		return fmt.Errorf("%w: wait until the migration from %s is complete", ErrArriving, last.Peer)
	}
	return nil
}

func (s *source) peer() handover.Peer {
	return handover.Peer{Name: s.opts.Peer.Name, Fingerprint: s.opts.Peer.Key.Fingerprint(), Address: s.opts.Address}
}

// abort takes back everything before the commit. It returns the cause.
func (s *source) abort(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx)
	if s.link != nil {
		// It need not arrive: the end of the connection says the same.
		s.link.control.Send(&wire.Abort{Reason: firstBytes(cause.Error(), wire.MaxTextBytes)})
		s.link.close()
	}
	if s.lanes != nil {
		s.lanes.close() // a target that does not read must not keep the forwarding, which the sandbox waits for
	}
	s.stopForwarding()
	if _, err := s.handover.Abort(ctx, s.id, cause.Error()); err != nil {
		cause = errors.Join(cause, fmt.Errorf("resume: %w", err))
	} else {
		s.resumed = true
	}
	s.finish(Aborted, cause)
	return cause
}

// prepare brings everything to the target, up to its being prepared.
func (s *source) prepare(ctx context.Context) error {
	if err := s.plan(ctx); err != nil {
		return err
	}
	s.postcopy = s.opts.Mode.MayLeavePages()
	if s.opts.Mode == PreCopy || s.opts.Mode == Hybrid {
		s.enter(Rounds)
		if !s.opts.FullPriority {
			setNice(niceRounds)
		}
		err := s.precopy(ctx)
		setNice(niceStop)
		if err != nil {
			return err
		}
	}
	// Everything that is allocated from here to the start on the target is small.
	percent := debug.SetGCPercent(-1)
	s.collect = sync.OnceFunc(func() { debug.SetGCPercent(percent) })
	return s.stop(ctx)
}

// heard follows the target after the commit.
func (s *source) heard(m *wire.Standing) {
	if m.Standing != attempt.Incomplete && m.Standing != attempt.Complete {
		return
	}
	if s.machine.Phase() == Start {
		s.report.TargetStart = m.StartNanoseconds
		s.enter(Announce)
		s.collect()
		if m.PagesMissing == 0 && !s.opts.FullPriority {
			setNice(niceRounds) // nobody waits for us any more
			s.yielded = true
		}
	}
	if m.PagesMissing > 0 {
		s.fetching(m.PagesMissing)
	}
}

// commit hands the sandbox over.
func (s *source) commit(ctx context.Context, other *counterpart) error {
	s.enter(Start)
	outcome, err := s.handover.HandOver(ctx, s.id)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrUnresolved, err)
		s.finish(Unresolved, err)
		return err
	case outcome == handover.Departed:
		failpoint.Here(failpoint.SourceDestroyed)
		if other.link != nil {
			// It need not arrive: nothing depends on it.
			other.link.control.Send(&wire.Destroyed{})
			other.link.close()
		}
		if s.machine.Phase() == Start {
			s.enter(Announce)
		}
		s.enter(Done)
		return nil
	}
	err = fmt.Errorf("%w: it did not start the sandbox, which runs on here", ErrRefused)
	s.finish(TakenBack, err)
	return err
}

func firstBytes(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:n/2] // far from cutting a character's last byte into a refusal
}
