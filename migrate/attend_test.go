package migrate

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
)

// A target that answers and gets on with nothing needs a person; one that compares what came gets on, although nothing more comes.
func TestAdvance(t *testing.T) {
	now := time.Now()
	far := advance{missing: math.MaxUint64, at: now}
	for _, step := range []struct {
		why               string
		missing, compared uint64
		farther           bool
	}{
		{"it answers first", 9, 0, true},
		{"pages came", 8, 0, true},
		{"nothing came", 8, 0, false},
		{"it counts more than it did", 9, 0, false},
		{"the source compares", 8, 1, true},
		{"the source has compared", 8, 1, false},
		{"there are new connections", 8, 0, false},
	} {
		now = now.Add(stallPatience / 4)
		if got := far.note(step.missing, step.compared, now); got != step.farther {
			t.Errorf("%s: it got on is %v", step.why, got)
		}
		if err := far.check(now); err != nil {
			t.Errorf("%s: %v", step.why, err)
		}
	}
	if err := far.check(far.at.Add(stallPatience)); !errors.Is(err, handover.ErrOperator) {
		t.Errorf("a target that gets on with nothing: %v", err)
	}
}
