package handover

import (
	"context"
	"errors"
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

// Original is the sandbox on the source.
type Original interface {
	// Disarm takes back the deadline at which the paused sandbox would resume by itself. It fails where that has passed.
	Disarm(ctx context.Context) error
	// Resume ends the pause of a migration: it lets the sandbox run, opens its gate and announces it. A pause that the user
	// asked for stays. It is no error if the sandbox runs, or is gone.
	Resume(ctx context.Context) error
	// Destroy ends the sandbox. It is no error if it is gone.
	Destroy(ctx context.Context) error
}

// Counterpart is how the source reaches the target. An error means that nothing was heard, unless it is an ErrOperator: asking
// again is of no use then. Either call may take a while
// to wait for a standing that says more.
type Counterpart interface {
	Commit(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error)
	Query(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error)
}

// Outcome is how an attempt ended on the source.
type Outcome string

// The outcomes. No outcome comes with an error: the attempt goes on when it is recovered.
const (
	Departed  Outcome = "departed"   // it lives on the target; the local copy is gone
	Aborted   Outcome = "aborted"    // it runs here, nothing was handed over
	TakenBack Outcome = "taken-back" // it runs here again, at a new epoch
)

// Source is the source's side of a sandbox's attempts. Its methods are called one at a time.
type Source struct {
	Journal     Journal // open, with its lock held
	Original    Original
	Counterpart Counterpart

	// wait replaces the clock in tests.
	wait pause
}

// Begin records a new attempt: its id is fresh and its epoch burned when it returns. Nothing may be sent about an attempt
// before. An attempt that is not over is a journal.ErrOpenAttempt: Recover it first.
func (s *Source) Begin(peer Peer) (attempt.ID, attempt.Epoch, error) {
	id, epoch := attempt.New(), s.Journal.History().Epoch()+1
	if err := insist(context.Background(), s.Journal, func(context.Context, int) error { return errNoRetry },
		peer.record(journal.Source, journal.Begun, id, epoch)); err != nil {
		return attempt.ID{}, 0, fmt.Errorf("begin attempt: %w", err)
	}
	return id, epoch, nil
}

// errNoRetry ends insist at its first failure: nothing has happened yet that would have to be put right.
var errNoRetry = errors.New("not tried again")

// Abort writes an attempt off and resumes the sandbox. After an error the sandbox must stay as it is.
func (s *Source) Abort(ctx context.Context, id attempt.ID, reason string) (Outcome, error) {
	last := s.Journal.History().Last(id)
	if last.State == journal.Begun {
		if err := insist(ctx, s.Journal, s.pause(), follow(last, journal.Aborted, reason)); err != nil {
			return "", fmt.Errorf("abort attempt %v: %w", id, err)
		}
	}
	return s.settle(ctx, id, attempt.Unreachable)
}

// HandOver hands the sandbox over after the target said that it is prepared, and stays until the attempt is over, which
// for post-copy is when the last page is there. It returns ErrOperator where it cannot be told how the attempt ended,
// and ctx's error where ctx ended first; the sandbox stays paused then, and Recover goes on.
func (s *Source) HandOver(ctx context.Context, id attempt.ID) (Outcome, error) {
	last := s.Journal.History().Last(id)
	if last.State != journal.Begun {
		return "", fmt.Errorf("hand over attempt %v: %w: it is %q", id, journal.ErrIllegal, last.State)
	}
	if err := s.Original.Disarm(ctx); err != nil {
		return s.Abort(ctx, id, fmt.Sprintf("resume deadline: %v", err))
	}
	if err := s.Journal.Append(follow(last, journal.HandedOver, "")); err != nil {
		return s.Abort(ctx, id, fmt.Sprintf("journal: %v", err))
	}
	standing, err := s.ask(ctx, s.Counterpart.Commit, last)
	if err != nil {
		return "", fmt.Errorf("attempt %v is handed over: %w", id, err)
	}
	return s.settle(ctx, id, standing)
}

// Recover goes on with the attempt that was under way when the process before this one ended, if there is one: ok says
// so. It also finishes what was decided and maybe not done, as resuming after a take-back.
func (s *Source) Recover(ctx context.Context) (outcome Outcome, ok bool, err error) {
	last, ok := s.Journal.History().Current()
	if !ok || last.Role != journal.Source {
		return "", false, nil
	}
	outcome, err = s.settle(ctx, last.Attempt, attempt.Unreachable)
	return outcome, true, err
}

// settle does what journal.Decide says until the attempt is over.
func (s *Source) settle(ctx context.Context, id attempt.ID, standing attempt.Standing) (Outcome, error) {
	for asked := 0; ; {
		last := s.Journal.History().Last(id)
		action := journal.Decide(last.State, standing)
		switch action {
		case journal.Ask, journal.Serve, journal.SendCommit:
			if asked > 0 {
				if err := s.pause()(ctx, asked-1); err != nil {
					return "", fmt.Errorf("attempt %v is handed over, and the target says %s: %w", id, standing, err)
				}
			}
			asked++
			how := s.Counterpart.Query
			if action == journal.SendCommit {
				how = s.Counterpart.Commit
			}
			var err error
			if standing, err = s.ask(ctx, how, last); err != nil {
				return "", fmt.Errorf("attempt %v is %q here: %w", id, last.State, err)
			}
		case journal.Abort, journal.TakeBack, journal.Depart:
			if err := insist(ctx, s.Journal, s.pause(), s.ending(last, action)); err != nil {
				return "", fmt.Errorf("%s attempt %v: %w", action, id, err)
			}
			standing = attempt.Unreachable
		case journal.Resume:
			return outcomeOf(last.State), s.Original.Resume(ctx)
		case journal.Destroy:
			return Departed, s.Original.Destroy(ctx)
		default:
			return "", fmt.Errorf("%w: attempt %v is %q here, and the target says %s", ErrOperator, id, last.State, standing)
		}
	}
}

// ending returns the record that an action is about.
func (s *Source) ending(last journal.Record, action journal.Action) journal.Record {
	switch action {
	case journal.Abort:
		return follow(last, journal.Aborted, "recovered")
	case journal.Depart:
		return follow(last, journal.Departed, "")
	}
	r := follow(last, journal.TakenBack, "target refused")
	r.Epoch = s.Journal.History().Epoch() + 1
	return r
}

func outcomeOf(state journal.State) Outcome {
	if state == journal.TakenBack {
		return TakenBack
	}
	return Aborted
}

// question is a method of Counterpart.
type question func(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error)

// ask makes silence into attempt.Unreachable. Its error is an ErrOperator.
func (s *Source) ask(ctx context.Context, how question, last journal.Record) (attempt.Standing, error) {
	standing, err := how(ctx, last.Attempt, last.Epoch)
	if errors.Is(err, ErrOperator) {
		return "", err
	}
	if err != nil {
		return attempt.Unreachable, nil
	}
	return standing, nil
}

func (s *Source) pause() pause {
	if s.wait != nil {
		return s.wait
	}
	return sleep
}
