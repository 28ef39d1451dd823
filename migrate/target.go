package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Codes of refusals.
const (
	codeBuild   = "build_differs"
	codeJournal = "journal"
	codeLimit   = "limit"
	codePlan    = "plan"
	codeStandby = "standby"
	codeLoad    = "load"

	codeContainers = "containers"

	codePages    = "pages"
	codeProtocol = "protocol"
)

// planTimeout bounds the time that a peer may take for hello and plan, and then for its data connections.
const planTimeout = 30 * time.Second

// target is one control connection, from the target's side.
type target struct {
	receiver *Receiver
	session  *agent.Session
	log      *slog.Logger

	id       string // of the sandbox
	hello    *wire.Hello
	journal  *journal.Journal
	handover *handover.Target

	arrival *arrival // nil before the plan was accepted
	inbox   *inbox
	conns   []net.Conn
	ahead   chan received  // what came while the data connections were awaited, nil for nothing
	readers []*wire.Reader // of conns
	// bundle is the directory of the bundle that was sent along, empty for none.
	bundle string
	lanes  sync.WaitGroup
	rounds uint64
	// rejoined: the attempt was committed on an earlier connection.
	rejoined bool
	// cancel ends the goroutines of this connection; lanes counts them.
	cancel context.CancelFunc
	watch  sync.Once
}

func (t *target) run(ctx context.Context) error {
	ctx, t.cancel = context.WithCancel(ctx)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-t.session.Stopping():
			// A commit that is being carried out is finished all the same. Otherwise the source takes the sandbox back,
			// or asks the next agent.
			t.session.Conn.Close()
		case <-over:
		}
	}()
	if err := t.open(ctx); err != nil {
		return err
	}
	if t.journal.History().Last(t.session.Attempt()).State != journal.None {
		// A source that lost its connection after the commit.
		return t.rejoin(ctx)
	}
	if err := t.admit(); err != nil {
		return err
	}
	meeting, err := t.session.ExpectData(int(t.hello.DataConnections))
	if err != nil {
		return err
	}
	defer meeting.Close()
	if err := t.welcome(); err != nil {
		return err
	}
	failpoint.Here(failpoint.TargetWelcomed)
	m, err := t.receive()
	if err != nil {
		return err
	}
	if offer, ok := m.(*wire.Bundle); ok {
		if m, err = t.takeBundle(ctx, meeting, offer); m == nil || err != nil {
			return err
		}
	}
	if plan, ok := m.(*wire.Plan); ok {
		if err := t.prepare(ctx, plan); err != nil {
			return err
		}
		if t.arrival == nil {
			return nil // refused, with findings
		}
		if err := t.awaitData(ctx, meeting); err != nil {
			return err
		}
		for i, conn := range t.conns {
			t.lanes.Go(func() { t.inbox.lane(conn, t.readers[i]) })
		}
		if err := t.session.Conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
		return t.serve(ctx)
	}
	// A source that asks about an attempt of which nothing is here.
	if err := t.answer(ctx, m); err != nil {
		return err
	}
	return t.serve(ctx)
}

// open takes hello and opens the journal.
func (t *target) open(ctx context.Context) error {
	if err := t.session.Conn.SetDeadline(time.Now().Add(planTimeout)); err != nil {
		return err
	}
	m, err := t.receive()
	if err != nil {
		return err
	}
	hello, ok := m.(*wire.Hello)
	if !ok {
		return fmt.Errorf("%T comes before hello", m)
	}
	t.hello, t.id = hello, hello.Sandbox
	build, err := thisBuild()
	if err != nil {
		return err
	}
	if hello.Build != build {
		return refuse(t.session, codeBuild, fmt.Errorf("saved kernels are read by the build that wrote them: source has %+v, target has %+v", hello.Build, build))
	}
	if t.journal, err = openJournal(ctx, t.receiver.Journals, t.id); err != nil {
		return refuse(t.session, codeJournal, err)
	}
	t.handover = handover.NewTarget(t.journal, handoverPeer(t.session))
	return nil
}

// admit says whether the attempt may come.
func (t *target) admit() error {
	if err := t.receiver.settleEnded(t.journal); err != nil {
		return refuse(t.session, codeJournal, err)
	}
	if err := t.handover.Admit(t.session.Attempt(), t.hello.Epoch); err != nil {
		return refuse(t.session, codeJournal, err)
	}
	return nil
}

func (t *target) welcome() error {
	return t.session.Control.Send(&wire.Welcome{Build: t.hello.Build})
}

// serve takes messages until the connection or the attempt ends.
func (t *target) serve(ctx context.Context) error {
	for {
		m, err := t.next()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.Destroyed:
			return nil
		case *wire.Abort:
			return fmt.Errorf("source: %s", m.Reason)
		}
		if err := t.answer(ctx, m); err != nil {
			return err
		}
	}
}

// answer answers one message.
func (t *target) answer(ctx context.Context, m wire.Message) error {
	switch m := m.(type) {
	case *wire.Commit:
		return t.standing(ctx, t.handover.Commit, m.Epoch)
	case *wire.Query:
		return t.standing(ctx, t.handover.Query, m.Epoch)
	}
	if t.arrival == nil {
		return fmt.Errorf("%T comes without a plan", m)
	}
	switch m := m.(type) {
	case *wire.Round:
		t.rounds = m.Number
		t.inbox.resize(m.Files)
		if err := t.session.Admit(m.Files[0].Pages * pages.PageSize); err != nil {
			return refuse(t.session, codeLimit, err)
		}
		if err := t.inbox.await(ctx, m.Number); err != nil {
			return refuse(t.session, codePages, err)
		}
		return t.session.Control.Send(&wire.Placed{Barrier: m.Number})
	case *wire.Freeze:
		if err := t.arrival.standby.Announce(); err != nil {
			return refuse(t.session, codeStandby, err)
		}
		failpoint.Here(failpoint.TargetAnnounced)
		return t.session.Control.Send(&wire.Announced{})
	case *wire.Handover:
		return t.load(ctx, m)
	}
	return fmt.Errorf("%T is not expected", m)
}

// errNotLoaded is why a target gives a kernel up: its process hangs, as it can when its gofer has ended.
var errNotLoaded = fmt.Errorf("the kernel was not loaded within %v", preparedTimeout)

// load verifies what came and waits until the kernel is loaded.
func (t *target) load(ctx context.Context, m *wire.Handover) error {
	began := time.Now()
	if err := t.inbox.await(ctx, t.rounds+1); err != nil {
		return refuse(t.session, codeLoad, err)
	}
	totals, missing, err := t.inbox.finish()
	if err != nil {
		return refuse(t.session, codeLoad, err)
	}
	if totals != m.Totals {
		return refuse(t.session, codeLoad, fmt.Errorf("got %+v, want %+v", totals, m.Totals))
	}
	if missing.Empty() {
		err = t.arrival.standby.Placed()
	} else {
		err = t.leaveMissing(missing)
	}
	if err != nil {
		return refuse(t.session, codeLoad, err)
	}
	// Nobody looks at the source's connection meanwhile, which gives up after as long.
	loading, cancel := context.WithTimeoutCause(ctx, preparedTimeout, errNotLoaded)
	defer cancel()
	sb, err := t.arrival.standby.Loaded(loading)
	if err != nil {
		return refuse(t.session, codeLoad, err)
	}
	if err := t.arrival.terminals.keep(m.Terminals); err != nil {
		return refuse(t.session, codeLoad, err)
	}
	if err := t.arrival.tellPeers(ctx, sb, m.Connections); err != nil {
		t.log.Warn("peers of closed connections are not told", "sandbox", t.id, "error", err)
	}
	t.arrival.loaded(sb)
	if err := t.handover.Expect(t.session.Attempt(), t.arrival); err != nil {
		return refuse(t.session, codeLoad, err)
	}
	failpoint.Here(failpoint.TargetLoaded)
	err = t.session.Control.Send(&wire.Prepared{Totals: totals, LoadNanoseconds: time.Since(began).Nanoseconds()})
	go t.arrival.passFrames() // while the source commits
	for _, w := range t.arrival.standby.Warnings() {
		t.log.Warn("bundle asks for what the sandbox does not have", "sandbox", t.id, "what", w)
	}
	return err
}

// standing answers a commit or a query.
func (t *target) standing(ctx context.Context, question func(context.Context, attempt.ID, attempt.Epoch) (attempt.Standing, error), epoch attempt.Epoch) error {
	began := time.Now()
	failpoint.Here(failpoint.TargetCommitted)
	id := t.session.Attempt()
	standing, err := question(ctx, id, epoch)
	if err != nil {
		return err
	}
	say := func(standing attempt.Standing) error {
		m := &wire.Standing{Standing: standing, Epoch: epoch}
		if standing == attempt.Incomplete || standing == attempt.Complete {
			m.StartNanoseconds = time.Since(began).Nanoseconds()
		}
		return t.session.Control.Send(m)
	}
	if f := t.arrival.fetching(); f != nil && (standing == attempt.Incomplete || standing == attempt.Lost) {
		return t.fetchStanding(ctx, f, epoch, time.Since(began))
	}
	if standing != attempt.Incomplete {
		return say(standing)
	}
	// All of its pages were there before it was started.
	if again, err := t.handover.Query(ctx, id, epoch); err != nil || again != attempt.Incomplete && !t.arrival.endedByItself() {
		// It was started and is gone: the source's paused copy may be the last.
		return errors.Join(err, say(again))
	}
	t.log.Info("sandbox runs here now", "sandbox", t.id)
	// That it is complete is what counts, whether or not the source hears this.
	sayErr := say(standing)
	if err := t.handover.Completed(context.WithoutCancel(ctx), id); err != nil {
		return err
	}
	failpoint.Here(failpoint.TargetComplete)
	return errors.Join(sayErr, say(attempt.Complete))
}

// close ends what was not started, and gives the journal up.
func (t *target) close() {
	t.cancel()
	for _, conn := range t.conns {
		conn.Close()
	}
	t.lanes.Wait()
	if t.inbox != nil {
		t.inbox.state.abandonUnlessEnded()
		t.inbox.meta.abandonUnlessEnded()
	}
	if t.arrival != nil && !t.receiver.keepArrival(t.session.Attempt(), t.arrival) {
		if err := t.arrival.Discard(); err != nil {
			t.log.Error("standby did not end", "sandbox", t.id, "error", err)
		}
	}
	t.dropBundle()
	if t.journal != nil {
		t.journal.Close()
	}
}
