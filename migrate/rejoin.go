package migrate

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// leaveMissing lets the kernel load without some pages, and begins to fetch them: it
// needs one or two to be loaded.
func (t *target) leaveMissing(missing *pages.Set) error {
	pager, err := t.arrival.standby.Missing(missing)
	if err != nil {
		return err
	}
	f := newFetch(pager, missing)
	t.arrival.fetch = f
	t.inbox.fetch.Store(f)
	return f.attach(t.conns)
}

// rejoin serves a source that comes back after its commit, with what is left of
// the attempt here.
func (t *target) rejoin(ctx context.Context) error {
	t.rejoined = true
	id := t.session.Attempt()
	if err := t.find(ctx, id); err != nil {
		return err
	}
	if f := t.arrival.fetching(); f != nil {
		meeting, err := t.session.ExpectData(int(t.hello.DataConnections))
		if err != nil {
			return err
		}
		defer meeting.Close()
		t.lanes.Go(func() {
			if conns, err := meeting.Wait(ctx); err == nil {
				t.fetchOver(ctx, f, conns)
			}
		})
	}
	if err := t.session.Conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if err := t.welcome(); err != nil {
		return err
	}
	return t.serve(ctx)
}

// find makes what is left of an attempt known: what this agent has of it, or what an
// agent before it started.
func (t *target) find(ctx context.Context, id attempt.ID) error {
	if t.arrival = t.receiver.keptArrival(id); t.arrival != nil {
		if err := t.refetch(ctx, id); err != nil {
			return err
		}
		return t.handover.Expect(id, t.arrival)
	}
	s := t.receiver.survivorOf(t.id, id)
	last := t.journal.History().Last(id)
	if last.State == journal.Differs && s.Copy() == journal.Running {
		t.arrival = &arrival{sb: s.sb, started: true, fetch: differingFetch()}
		return t.handover.Expect(id, t.arrival)
	}
	if last.State == journal.Started && s.Copy() == journal.Running {
		pager, left, err := attachPatiently(ctx, s.sb)
		if err != nil {
			return err
		}
		if pager != nil {
			t.log.Info("sandbox waits for memory", "sandbox", t.id, "pages", left.Count())
			t.arrival = &arrival{sb: s.sb, started: true, fetch: newFetch(pager, left)}
			t.arrival.fetch.begin()
			return t.handover.Expect(id, t.arrival)
		}
	}
	return t.handover.Expect(id, s)
}

// refetch replaces the fetch of a kept sandbox where that has failed for a reason that may have passed.
func (t *target) refetch(ctx context.Context, id attempt.ID) error {
	f := t.arrival.fetching()
	if f == nil || t.arrival.Copy() != journal.Running || !t.arrival.triesAgain(f, time.Now()) {
		return nil
	}
	f.pager.Close()
	pager, left, err := attachPatiently(ctx, t.arrival.sandbox())
	if err != nil {
		if ctx.Err() != nil {
			t.arrival.setTrouble(time.Time{}) // it does not answer, as while it is frozen: that may take as long as it likes
		}
		return err
	}
	if pager == nil { // all of its memory is there
		t.receiver.dropArrival(id)
		t.arrival.release()
		return nil
	}
	t.log.Info("sandbox waits for memory, which is fetched anew", "sandbox", t.id, "pages", left.Count(), "failed", f.err)
	t.arrival.fetchBy(newFetch(pager, left))
	return nil
}

// attachPatience is how long a kernel may take to notice that its pager is gone.
const attachPatience = 2 * time.Second

func attachPatiently(ctx context.Context, sb *sandbox.Sandbox) (*checkpoint.Pager, *pages.Set, error) {
	for deadline := time.Now().Add(attachPatience); ; {
		pager, left, err := checkpoint.AttachPager(ctx, sb)
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return pager, left, err
		}
		time.Sleep(attachPatience / 20)
	}
}

// fetchOver lets a fetch go on over connections, until they or ctx end.
func (t *target) fetchOver(ctx context.Context, f *fetch, conns []net.Conn) {
	for _, conn := range conns {
		t.lanes.Go(func() {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			err := f.lane(conn)
			t.log.Info("data connection ended", "sandbox", t.id, "error", err)
			conn.Close()
		})
	}
	if err := f.attach(conns); err != nil {
		t.log.Warn("missing pages cannot be asked for", "sandbox", t.id, "error", err)
	}
}

// fetchStanding says how a sandbox stands whose pages are being fetched, now and
// when that is over.
func (t *target) fetchStanding(ctx context.Context, f *fetch, epoch attempt.Epoch, took time.Duration) error {
	t.watch.Do(func() {
		t.log.Info("sandbox runs here now, and fetches memory", "sandbox", t.id, "pages", f.left())
		t.lanes.Go(func() {
			select {
			case <-f.over:
				if err := t.fetched(ctx, f, epoch); err != nil {
					t.log.Error("missing pages", "sandbox", t.id, "error", err)
				}
			case <-ctx.Done():
			}
		})
	})
	return t.session.Control.Send(&wire.Standing{
		Standing: attempt.Incomplete, Epoch: epoch, PagesMissing: f.left(), StartNanoseconds: took.Nanoseconds(),
	})
}

// fetched ends a fetch that is over on this host, and says how the sandbox stands then.
func (t *target) fetched(ctx context.Context, f *fetch, epoch attempt.Epoch) error {
	ctx, id, err := context.WithoutCancel(ctx), t.session.Attempt(), f.err
	standing := attempt.Complete
	switch {
	case memoryDiffers(err): // it stays incomplete: an operator decides
		return errors.Join(err, t.handover.Differs(ctx, id, err))
	case err != nil:
		ended := t.arrival.Copy() != journal.Running || errors.Is(err, errKernelGone) && t.arrival.awaitEnd()
		if !ended && mayPass(err) {
			f.hangUp() // the source connects again, and another fetch may begin: see refetch
		}
		if !ended {
			return err
		}
		if !t.arrival.endedByItself() {
			standing = attempt.Lost
		}
	}
	t.receiver.dropArrival(id)
	t.arrival.release()
	if standing == attempt.Complete {
		if err := t.handover.Completed(ctx, id); err != nil {
			return err
		}
		if err != nil {
			// The source's copy is not the last one: there is none any more.
			if err := t.handover.Ended(ctx, id); err != nil {
				return err
			}
		}
		t.log.Info("sandbox has all of its memory", "sandbox", t.id)
		failpoint.Here(failpoint.TargetComplete)
	}
	return t.session.Control.Send(&wire.Standing{Standing: standing, Epoch: epoch})
}
