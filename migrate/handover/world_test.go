package handover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

var (
	errLink  = errors.New("link lost")
	errReset = errors.New("process died")
)

// world is two hosts with real journals, and an observer.
type world struct {
	t      *testing.T
	random *rand.Rand
	faults int // how many may still happen
	log    []string

	sourceDir, targetDir string
	sourceJournal        *journal.Journal
	targetJournal        *journal.Journal

	original sandbox
	arrival  *standby
	target   *Target
	ran      bool // the target's copy ran at some time
	replay   []func()
}

// sandbox is the Original.
type sandbox struct {
	w       *world
	running bool
	armed   bool
	gone    bool
}

// standby is the Arrival.
type standby struct {
	w    *world
	id   attempt.ID
	copy journal.Copy
}

func newWorld(t *testing.T, seed uint64, faults int) *world {
	t.Helper()
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 0)), faults: faults, sourceDir: t.TempDir(), targetDir: t.TempDir()}
	w.original = sandbox{w: w, running: true}
	w.sourceJournal = w.open(w.sourceDir)
	w.bootTarget()
	t.Cleanup(func() { w.sourceJournal.Close(); w.targetJournal.Close() })
	return w
}

func (w *world) open(dir string) *journal.Journal {
	w.t.Helper()
	j, err := journal.Open(dir, "redis")
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// fault says whether something goes wrong here.
func (w *world) fault(what string) bool {
	if w.faults == 0 || w.random.IntN(8) != 0 {
		return false
	}
	w.faults--
	w.note("fault: " + what)
	return true
}

func (w *world) note(what string) { w.log = append(w.log, what) }

// died is what a process panics with when it dies.
type died struct{}

// die may end the process that calls it.
func (w *world) die(where string) {
	if w.fault("death at " + where) {
		panic(died{})
	}
}

// survive runs a process and reports whether it lived.
func survive(process func()) (lived bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
			lived = false
		}
	}()
	process()
	return true
}

// observe is called whenever something begins to run.
func (w *world) observe() {
	if w.original.running && w.arrival != nil && w.arrival.copy == journal.Running {
		w.t.Fatalf("two running copies: %q", w.log)
	}
	if w.original.running && w.ran {
		w.t.Fatalf("the source runs on after the target ran: %q", w.log)
	}
}

// book is a journal whose writes may fail, in a process that may die before and after each.
type book struct {
	w    *world
	name string
	dir  string
	j    **journal.Journal
	// hidden is what the process knows, once a write failed that is there all the same; otherwise nil.
	hidden *[]journal.Record
}

func newBook(w *world, name, dir string, j **journal.Journal) book {
	return book{w, name, dir, j, new([]journal.Record)}
}

func (b book) History() *journal.History {
	if *b.hidden == nil {
		return (*b.j).History()
	}
	// What is durable, without the record whose fate this process does not know.
	scratch := b.w.open(b.w.t.TempDir())
	defer scratch.Close()
	b.fill(scratch, *b.hidden)
	return scratch.History()
}

func (b book) fill(j *journal.Journal, records []journal.Record) {
	for _, r := range records {
		if err := j.Append(r); err != nil {
			b.w.t.Fatal(err)
		}
	}
}

// replace makes the journal's file anew, as the next Append after a failed one does.
func (b book) replace() {
	(*b.j).Close()
	if err := os.Remove(filepath.Join(b.dir, "redis.journal")); err != nil {
		b.w.t.Fatal(err)
	}
	*b.j = b.w.open(b.dir)
	b.fill(*b.j, *b.hidden)
	*b.hidden = nil
}

func (b book) Append(r journal.Record) error {
	b.w.die(fmt.Sprintf("%s before %s", b.name, r.State))
	if b.w.fault(fmt.Sprintf("%s cannot write %s", b.name, r.State)) {
		return fmt.Errorf("%w: disk full", journal.ErrUncertain)
	}
	if *b.hidden != nil {
		b.replace()
	}
	known := append([]journal.Record{}, (*b.j).History().Records()...)
	err := (*b.j).Append(r)
	b.w.note(fmt.Sprintf("%s: %s, %v", b.name, r.State, err))
	if err == nil && b.w.fault(fmt.Sprintf("%s hears that %s failed", b.name, r.State)) {
		*b.hidden = known
		return fmt.Errorf("%w: sync failed", journal.ErrUncertain)
	}
	b.w.die(fmt.Sprintf("%s after %s", b.name, r.State))
	return err
}

func (s *sandbox) Disarm(context.Context) error {
	s.w.die("disarm")
	if !s.armed || s.w.fault("deadline passed") {
		s.running, s.armed = !s.gone, false
		s.w.observe()
		return errors.New("deadline has passed")
	}
	s.armed = false
	return nil
}

func (s *sandbox) Resume(context.Context) error {
	s.w.die("resume")
	s.running = !s.gone
	s.w.note("source runs")
	s.w.observe()
	return nil
}

func (s *sandbox) Destroy(context.Context) error {
	s.w.die("destroy")
	if !s.w.ran {
		s.w.t.Fatalf("destroyed the only copy: %q", s.w.log)
	}
	s.gone, s.running = true, false
	return nil
}

func (s *standby) Copy() journal.Copy { return s.copy }

func (s *standby) Start(context.Context) error {
	s.w.die("before start")
	s.copy, s.w.ran = journal.Running, true
	s.w.note("target runs")
	s.w.observe()
	s.w.die("after start")
	return nil
}

func (s *standby) Discard() error {
	s.w.die("discard")
	s.copy = journal.Absent
	return nil
}

// bootTarget is the start of the target's agent.
func (w *world) bootTarget() {
	if w.targetJournal != nil {
		w.targetJournal.Close()
	}
	w.targetJournal = w.open(w.targetDir)
	w.target = NewTarget(newBook(w, "target", w.targetDir, &w.targetJournal), Peer{Name: "a"})
	w.target.wait = noWait
	if w.arrival != nil {
		if w.arrival.copy == journal.Standby {
			w.arrival.copy = journal.Absent // it ends with its agent
		}
		if w.arrival.copy == journal.Absent && w.targetJournal.History().Last(w.arrival.id).State == journal.None && w.fault("state arrives again") {
			w.arrival.copy = journal.Standby
		}
		w.target.Expect(w.arrival.id, w.arrival)
	}
}

// link is the Counterpart: it loses, repeats and keeps messages.
type link struct{ w *world }

func (l link) Commit(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	return l.deliver("commit", func(t *Target) (attempt.Standing, error) { return t.Commit(ctx, id, epoch) })
}

func (l link) Query(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	return l.deliver("query", func(t *Target) (attempt.Standing, error) { return t.Query(ctx, id, epoch) })
}

func (l link) deliver(what string, message func(*Target) (attempt.Standing, error)) (standing attempt.Standing, err error) {
	w := l.w
	w.die("source before " + what)
	if w.fault(what + " is late") {
		w.replay = append(w.replay, func() { w.atTarget(message) })
		return "", errLink
	}
	standing, err = w.atTarget(message)
	if w.fault(what + " is repeated") {
		standing, err = w.atTarget(message)
	}
	if w.fault("answer to " + what + " is lost") {
		err = errLink
	}
	w.note(fmt.Sprintf("%s: %s, %v", what, standing, err))
	w.die("source after " + what)
	return standing, err
}

// atTarget handles a message, and lets the last page arrive some time after the start.
func (w *world) atTarget(message func(*Target) (attempt.Standing, error)) (standing attempt.Standing, err error) {
	err = errReset
	if !survive(func() {
		standing, err = message(w.target)
		if last, ok := w.targetJournal.History().Current(); ok && last.State == journal.Started && w.arrival != nil && w.arrival.copy == journal.Running {
			w.target.Completed(context.Background(), last.Attempt)
		}
	}) {
		w.bootTarget()
		return "", errReset
	}
	return standing, err
}

// noWait waits for nothing, and not for ever: in a test nobody else changes anything.
func noWait(_ context.Context, n int) error {
	if n > 50 {
		return errors.New("waited long enough")
	}
	return nil
}
