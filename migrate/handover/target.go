package handover

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

// Arrival is what a target has of one attempt's sandbox.
type Arrival interface {
	// Copy says what is alive. It waits until a process that is about to start or to end has done so.
	Copy() journal.Copy
	// Start lets the tasks run and opens the gate. After it the sandbox outlives the agent.
	Start(ctx context.Context) error
	// Discard ends a standby, for certain. It is no error if there is none.
	Discard() error
}

// Target is the target's side of one sandbox. Its methods may be called concurrently.
type Target struct {
	journal Journal // open, with its lock held
	peer    Peer
	wait    pause

	mu sync.Mutex
	// arrivals are by attempt. Guarded by mu.
	arrivals map[attempt.ID]Arrival
}

// NewTarget returns the target's side of the sandbox that a journal is about. peer is who it comes from.
func NewTarget(j Journal, peer Peer) *Target {
	return &Target{journal: j, peer: peer, wait: sleep, arrivals: make(map[attempt.ID]Arrival)}
}

// Admit says whether an attempt may be welcomed: journal.ErrOpenAttempt, journal.ErrStaleEpoch or journal.ErrIllegal
// if not.
func (t *Target) Admit(id attempt.ID, epoch attempt.Epoch) error {
	return t.journal.History().CheckOwn(id, epoch)
}

// Expect makes an attempt's standby the one that a commit starts. A standby of an earlier attempt is discarded. A
// running copy, after the agent was started again, is made known in the same way.
func (t *Target) Expect(id attempt.ID, a Arrival) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, arrival := range t.arrivals {
		if other == id || arrival.Copy() == journal.Running {
			continue
		}
		if err := arrival.Discard(); err != nil {
			return fmt.Errorf("discard standby of attempt %v: %w", other, err)
		}
		delete(t.arrivals, other)
	}
	t.arrivals[id] = a
	return nil
}

// Commit carries out a commit and returns the standing to answer with. An error means that nothing may be answered.
func (t *Target) Commit(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	return t.respond(ctx, journal.Take, id, epoch)
}

// Query returns how an attempt stands. An error means that nothing may be answered.
func (t *Target) Query(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	return t.respond(ctx, journal.Answer, id, epoch)
}

// decision is journal.Take or journal.Answer.
type decision func(journal.State, journal.Copy) journal.Response

func (t *Target) respond(ctx context.Context, decide decision, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	// The peer's connection may end now: what was begun is finished all the same.
	ctx = context.WithoutCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.journal.History().Last(id)
	if last.State == journal.None {
		last = t.peer.record(journal.Target, journal.None, id, epoch)
	}
	if last.Role != journal.Target || last.Epoch != epoch {
		return "", fmt.Errorf("%w: attempt %v is the %s's at %v here, asked for at %v",
			journal.ErrIllegal, id, last.Role, last.Epoch, epoch)
	}
	r := decide(last.State, t.copyOf(id))
	switch {
	case r.Start:
		return t.start(ctx, last)
	case r.Write == journal.Refused:
		return t.refuse(ctx, last, "not prepared")
	}
	return r.Reply, nil
}

// copyOf says what is alive of an attempt. The caller holds mu.
func (t *Target) copyOf(id attempt.ID) journal.Copy {
	if a := t.arrivals[id]; a != nil {
		return a.Copy()
	}
	return journal.Absent
}

// start becomes owner and starts the sandbox. The caller holds mu.
func (t *Target) start(ctx context.Context, last journal.Record) (attempt.Standing, error) {
	for _, state := range []journal.State{journal.Owner, journal.Started} {
		last = follow(last, state, "")
		err := t.journal.Append(last)
		if errors.Is(err, journal.ErrUncertain) || state == journal.Owner && err != nil {
			return t.refuse(ctx, last, fmt.Sprintf("could not record %s", state))
		}
		if err != nil {
			return "", err
		}
	}
	if err := t.arrivals[last.Attempt].Start(ctx); err != nil {
		// Whether a task ran is not known: the answer follows from what is alive.
		return journal.Answer(journal.Started, t.copyOf(last.Attempt)).Reply, nil
	}
	return attempt.Incomplete, nil
}

// refuse ends an attempt that never ran here. The caller holds mu.
func (t *Target) refuse(ctx context.Context, last journal.Record, note string) (attempt.Standing, error) {
	if a := t.arrivals[last.Attempt]; a != nil {
		if err := a.Discard(); err != nil {
			return "", fmt.Errorf("refuse attempt %v: %w", last.Attempt, err)
		}
		delete(t.arrivals, last.Attempt)
	}
	if err := insist(ctx, t.journal, t.wait, follow(last, journal.Refused, note)); err != nil {
		return "", fmt.Errorf("refuse attempt %v: %w", last.Attempt, err)
	}
	return attempt.Refused, nil
}

// Completed records that the last page is there. Only then may the source hear it.
func (t *Target) Completed(ctx context.Context, id attempt.ID) error {
	return t.advance(ctx, id, journal.Complete, "")
}

// Differs records that the sandbox's memory is not what the source had: a person decides. It changes nothing where that is recorded.
func (t *Target) Differs(ctx context.Context, id attempt.ID, why error) error {
	if t.journal.History().Last(id).State == journal.Differs {
		return nil
	}
	return t.advance(ctx, id, journal.Differs, why.Error())
}

// Ended records that the sandbox ended in its own time, after it was complete.
func (t *Target) Ended(ctx context.Context, id attempt.ID) error {
	return t.advance(ctx, id, journal.Ended, "")
}

func (t *Target) advance(ctx context.Context, id attempt.ID, state journal.State, note string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.journal.History().Last(id)
	if err := insist(ctx, t.journal, t.wait, follow(last, state, note)); err != nil {
		return fmt.Errorf("record %s of attempt %v: %w", state, id, err)
	}
	return nil
}
