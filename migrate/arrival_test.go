package migrate

import (
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// A sandbox is kept for its next connection until somebody has decided about its attempt without one.
func TestArrivalsThatAreDecidedAreNotKept(t *testing.T) {
	r := &Receiver{Journals: t.TempDir()}
	j, err := journal.Open(r.Journals, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	id := attempt.New()
	record := func(state journal.State) {
		if err := j.Append(journal.Record{Role: journal.Target, State: state, Attempt: id, Epoch: 1, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	record(journal.Owner)
	record(journal.Started)
	k := newFakeKernel(t)
	a := &arrival{sb: &sandbox.Sandbox{}, started: true, fetch: newFetch(k, setOfRange(0, 8))}
	a.sb.ID = "web"
	if !r.keepArrival(id, a) || r.keptArrival(id) != a {
		t.Fatal("it is not kept")
	}
	r.dropDecided()
	if r.keptArrival(id) != a {
		t.Fatal("it is dropped while memory is missing")
	}
	record(journal.Complete)
	r.dropDecided()
	if r.keptArrival(id) != nil || a.fetching() != nil || !k.isClosed() {
		t.Error("it is kept although its attempt is over")
	}
	a.release() // whose session comes late
}

// What a standby would have fetched with is given up with it.
func TestArrivalThatIsDiscardedHasNoPager(t *testing.T) {
	k := newFakeKernel(t)
	a := &arrival{fetch: newFetch(k, setOfRange(0, 8))}
	if a.fetching() != nil {
		t.Error("it fetches before it is started")
	}
	a.discarded()
	if !k.isClosed() {
		t.Error("the pager is not closed")
	}
}
