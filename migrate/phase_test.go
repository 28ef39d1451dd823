package migrate

import (
	"errors"
	"slices"
	"testing"
	"time"
)

var allPhases = append(slices.Clone(workPhases), Done, Aborted, TakenBack, Unresolved)

// stepClock is a clock that every look moves by another odd number of nanoseconds.
func stepClock() func() time.Time {
	at, step := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), time.Duration(1)
	return func() time.Time {
		at = at.Add(step)
		step = step*3 + 1
		return at
	}
}

// paths calls visit with every way through the phases of a role.
func paths(role Role, visit func([]Phase)) {
	var walk func([]Phase)
	walk = func(path []Phase) {
		last := path[len(path)-1]
		if last.Final() {
			visit(slices.Clone(path))
			return
		}
		for _, next := range after[role][last] {
			walk(append(path, next))
		}
	}
	walk([]Phase{Plan})
}

func TestEveryPathEndsAndSums(t *testing.T) {
	for _, role := range []Role{Source, Target} {
		ends := map[Phase]int{}
		paths(role, func(path []Phase) {
			m := newMachine(role, stepClock())
			for _, p := range path[1:] {
				if err := m.Enter(p); err != nil {
					t.Fatalf("%s %v: %v", role, path, err)
				}
			}
			timing := m.Timing()
			ends[timing.Outcome]++
			if total := m.entered.Sub(m.began); timing.Total() != total {
				t.Fatalf("%v: phases sum to %v of %v", path, timing.Total(), total)
			}
			if len(timing.Phases) != len(path)-1 {
				t.Fatalf("%v: times of %v", path, timing)
			}
			if (timing.Downtime() > 0) != slices.Contains(path, Pause) {
				t.Fatalf("%v: downtime %v", path, timing.Downtime())
			}
		})
		for _, p := range []Phase{Done, Aborted, TakenBack, Unresolved} {
			if ends[p] == 0 {
				t.Errorf("no way of the %s ends %s", role, p)
			}
		}
	}
}

func TestNoAbortAfterTheCommit(t *testing.T) {
	for _, role := range []Role{Source, Target} {
		paths(role, func(path []Phase) {
			if slices.Contains(path, Start) && slices.Contains(path, Aborted) {
				t.Errorf("%s: %v", role, path)
			}
			if !slices.Contains(path, Start) && path[len(path)-1] != Aborted {
				t.Errorf("%s ends %s without a commit: %v", role, path[len(path)-1], path)
			}
		})
	}
}

func TestIllegalTransitionChangesNothing(t *testing.T) {
	for _, role := range []Role{Source, Target} {
		for _, from := range allPhases {
			for _, to := range append(allPhases, "", "nonsense") {
				m := newMachine(role, stepClock())
				m.phase = from
				before := m.entered
				err := m.Enter(to)
				if slices.Contains(after[role][from], to) {
					if err != nil || m.Phase() != to {
						t.Errorf("%s from %s to %s: %v", role, from, to, err)
					}
					continue
				}
				var wrong *PhaseError
				if !errors.As(err, &wrong) || m.Phase() != from || m.entered != before || len(m.times) != 0 {
					t.Errorf("%s from %s to %s: %v, now %s", role, from, to, err, m.Phase())
				}
			}
		}
	}
}

func TestCancelUntilTheCommit(t *testing.T) {
	m := NewMachine(Source)
	for _, p := range []Phase{Rounds, Pause, State, Residual, Load} {
		if err := m.Enter(p); err != nil || !m.Cancellable() {
			t.Fatal(p, err)
		}
	}
	if err := m.Enter(Start); err != nil || m.Cancellable() {
		t.Fatal("cancellable after the commit", err)
	}
	if m.Fail(Aborted, "too late") == nil {
		t.Fatal("aborted after the commit")
	}
	if err := m.Fail(Unresolved, "peer is gone"); err != nil {
		t.Fatal(err)
	}
	if got := m.Timing(); got.Outcome != Unresolved || got.Reason != "peer is gone" {
		t.Fatal(got)
	}
}

func TestTimingOfARunningMigrationGoesOn(t *testing.T) {
	m := newMachine(Source, stepClock())
	a, b := m.Timing(), m.Timing()
	if a.Outcome != Plan || len(a.Phases) != 1 || b.Total() <= a.Total() {
		t.Fatal(a, b)
	}
	if text := a.String(); text != "plan 4ns" {
		t.Fatal(text)
	}
}
