package handover

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

var peerB = Peer{Name: "b", Fingerprint: "SHA256:b", Address: "192.0.2.2:7777"}

func (w *world) source() *Source {
	return &Source{Journal: newBook(w, "source", w.sourceDir, &w.sourceJournal), Original: &w.original, Counterpart: link{w}, wait: noWait}
}

// move is one run of the command: everything up to the handover succeeds.
func (w *world) move(ctx context.Context) (outcome Outcome, err error) {
	s := w.source()
	id, epoch, err := s.Begin(peerB)
	if err != nil {
		return "", err
	}
	if err := w.target.Admit(id, epoch); err != nil {
		return "", err
	}
	w.original.running, w.original.armed = false, true
	w.arrival = &standby{w: w, id: id, copy: journal.Standby}
	if err := w.target.Expect(id, w.arrival); err != nil {
		return "", err
	}
	return s.HandOver(ctx, id)
}

// recover is the start of the source's agent.
func (w *world) recover(ctx context.Context) (outcome Outcome, err error) {
	w.sourceJournal.Close()
	w.sourceJournal = w.open(w.sourceDir)
	outcome, _, err = w.source().Recover(ctx)
	return outcome, err
}

func (w *world) states(j *journal.Journal) (out []journal.State) {
	for _, r := range j.History().Records() {
		out = append(out, r.State)
	}
	return out
}

func TestHandOver(t *testing.T) {
	w := newWorld(t, 0, 0)
	if outcome, err := w.move(context.Background()); outcome != Departed || err != nil {
		t.Fatal(outcome, err)
	}
	if !w.original.gone || w.arrival.copy != journal.Running {
		t.Fatalf("%+v", w.original)
	}
	if got := w.states(w.sourceJournal); !slices.Equal(got, []journal.State{journal.Begun, journal.HandedOver, journal.Departed}) {
		t.Fatal(got)
	}
	if got := w.states(w.targetJournal); !slices.Equal(got, []journal.State{journal.Owner, journal.Started, journal.Complete}) {
		t.Fatal(got)
	}
	if r, _ := w.sourceJournal.History().Current(); r.Peer != "b" || r.PeerKey != "SHA256:b" || r.Epoch != 1 || r.Time.IsZero() {
		t.Fatalf("%+v", r)
	}
}

func TestRefusalIsTakenBackAtANewEpoch(t *testing.T) {
	w := newWorld(t, 0, 0)
	s := w.source()
	id, _, err := s.Begin(peerB)
	if err != nil {
		t.Fatal(err)
	}
	w.original.running, w.original.armed = false, true // and no standby anywhere
	if outcome, err := s.HandOver(context.Background(), id); outcome != TakenBack || err != nil {
		t.Fatal(outcome, err)
	}
	if r, _ := w.sourceJournal.History().Current(); !w.original.running || r.Epoch != 2 {
		t.Fatalf("%+v", r)
	}
	if _, epoch, err := s.Begin(peerB); err != nil || epoch != 3 {
		t.Fatal(epoch, err)
	}
}

func TestLateAnswersKeepTheSandboxPaused(t *testing.T) {
	w := newWorld(t, 0, 0)
	s := w.source()
	id, _, err := s.Begin(peerB)
	if err != nil {
		t.Fatal(err)
	}
	w.original.running, w.original.armed = false, true
	s.Counterpart = silent{}
	gone := errors.New("command was ended")
	ctx, cancel := context.WithCancelCause(context.Background())
	s.wait = func(ctx context.Context, n int) error {
		if n == 10 {
			cancel(gone)
		}
		return context.Cause(ctx)
	}
	if outcome, err := s.HandOver(ctx, id); outcome != "" || !errors.Is(err, gone) {
		t.Fatal(outcome, err)
	}
	if w.original.running || w.original.gone {
		t.Fatal("it was touched")
	}
	if _, _, err := s.Begin(peerB); !errors.Is(err, journal.ErrOpenAttempt) {
		t.Fatalf("another attempt: %v", err)
	}
}

type silent struct{}

func (silent) Commit(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error) {
	return "", errLink
}

func (silent) Query(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error) {
	return "", errLink
}

// A target that answers and will never have everything is not asked again.
func TestStalledIsForTheOperator(t *testing.T) {
	w := newWorld(t, 0, 0)
	s := w.source()
	id, _, err := s.Begin(peerB)
	if err != nil {
		t.Fatal(err)
	}
	w.original.running, w.original.armed = false, true
	s.Counterpart = stalled{}
	if outcome, err := s.HandOver(context.Background(), id); outcome != "" || !errors.Is(err, ErrOperator) {
		t.Fatal(outcome, err)
	}
	if outcome, _, err := s.Recover(context.Background()); outcome != "" || !errors.Is(err, ErrOperator) {
		t.Fatal(outcome, err)
	}
	if w.original.running || w.original.gone {
		t.Fatal("it was touched")
	}
}

type stalled struct{}

func (stalled) Commit(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error) {
	return "", ErrOperator
}

func (stalled) Query(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error) {
	return "", ErrOperator
}

func TestLostIsForTheOperator(t *testing.T) {
	w := newWorld(t, 0, 0)
	s := w.source()
	id, epoch, err := s.Begin(peerB)
	if err != nil {
		t.Fatal(err)
	}
	w.original.running, w.original.armed = false, true
	for _, state := range []journal.State{journal.Owner, journal.Started} {
		if err := w.targetJournal.Append(peerB.record(journal.Target, state, id, epoch)); err != nil {
			t.Fatal(err)
		}
	}
	if outcome, err := s.HandOver(context.Background(), id); outcome != "" || !errors.Is(err, ErrOperator) {
		t.Fatal(outcome, err)
	}
	if w.original.running || w.original.gone {
		t.Fatal("it was touched")
	}
}

func TestTargetChecksTheEpoch(t *testing.T) {
	w := newWorld(t, 0, 0)
	if _, err := w.move(context.Background()); err != nil {
		t.Fatal(err)
	}
	last, _ := w.targetJournal.History().Current()
	if s, err := w.target.Commit(context.Background(), last.Attempt, last.Epoch+1); !errors.Is(err, journal.ErrIllegal) {
		t.Fatal(s, err)
	}
	if s, err := w.target.Commit(context.Background(), last.Attempt, last.Epoch); s != attempt.Complete || err != nil {
		t.Fatal("a replayed commit: ", s, err)
	}
	if err := w.target.Admit(attempt.New(), last.Epoch+1); !errors.Is(err, journal.ErrOpenAttempt) {
		t.Fatal(err)
	}
	if err := w.target.Ended(context.Background(), last.Attempt); err != nil {
		t.Fatal(err)
	}
	if err := w.target.Admit(attempt.New(), last.Epoch); !errors.Is(err, journal.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if err := w.target.Admit(attempt.New(), last.Epoch+1); err != nil {
		t.Fatal(err)
	}
}

func TestNewAttemptDiscardsTheOldStandby(t *testing.T) {
	w := newWorld(t, 0, 0)
	old := &standby{w: w, copy: journal.Standby}
	first, second := attempt.New(), attempt.New()
	if err := errors.Join(w.target.Expect(first, old), w.target.Expect(second, &standby{w: w, copy: journal.Standby})); err != nil {
		t.Fatal(err)
	}
	if old.copy != journal.Absent {
		t.Fatal("two standbys")
	}
	if s, err := w.target.Commit(context.Background(), first, 1); s != attempt.Refused || err != nil {
		t.Fatal("the old attempt's commit: ", s, err)
	}
}

// TestFaultsAtRandom moves a sandbox while processes die, writes fail and messages are lost, late and repeated, and then
// lets everything settle. The observer in world checks each step; here the end is checked.
func TestFaultsAtRandom(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		w := newWorld(t, seed, 1+int(seed%5))
		ctx := context.Background()
		outcome, err := Outcome(""), error(errReset)
		survive(func() { outcome, err = w.move(ctx) })
		for n := 0; err != nil && !errors.Is(err, ErrOperator); n++ {
			if n > 20 {
				t.Fatalf("seed %d does not settle: %v, %q", seed, err, w.log)
			}
			if n > 10 {
				w.faults = 0
			}
			err = errReset
			survive(func() { outcome, err = w.recover(ctx) })
		}
		w.faults = 0
		for _, late := range w.replay {
			late()
		}
		w.settled(seed, outcome, err)
		if err == nil { // whatever ended stays ended when the agent starts again
			if again, err := w.recover(ctx); again != outcome || err != nil {
				t.Fatalf("seed %d: %q, and after another start %q: %v, %q", seed, outcome, again, err, w.log)
			}
		}
		if err != nil {
			outcome = "operator"
		}
		seen[string(outcome)]++
	}
	t.Logf("%v", seen)
	for _, outcome := range []Outcome{Departed, Aborted, TakenBack, "operator"} {
		if seen[string(outcome)] == 0 {
			t.Errorf("no seed ends %s", outcome)
		}
	}
}

// settled checks the end of a run.
func (w *world) settled(seed uint64, outcome Outcome, err error) {
	w.t.Helper()
	arrived := w.arrival != nil && w.arrival.copy == journal.Running
	switch {
	case err != nil: // the operator's: nothing here runs, and both journals say why
		if last, _ := w.sourceJournal.History().Current(); w.original.running || w.original.gone || last.State != journal.HandedOver {
			w.t.Fatalf("seed %d: %v, %+v, %q", seed, err, w.original, w.log)
		}
	case outcome == Departed:
		if !arrived || !w.original.gone {
			w.t.Fatalf("seed %d: departed, %v, %+v, %q", seed, arrived, w.original, w.log)
		}
	case outcome == Aborted, outcome == TakenBack:
		if arrived || !w.original.running {
			w.t.Fatalf("seed %d: %s, %v, %+v, %q", seed, outcome, arrived, w.original, w.log)
		}
	case outcome == "": // it died before anything was recorded
		if arrived || !w.original.running {
			w.t.Fatalf("seed %d: nothing, %v, %+v, %q", seed, arrived, w.original, w.log)
		}
	}
}
