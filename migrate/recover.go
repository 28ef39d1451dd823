package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// recoverInterval is how often an agent looks for migrations whose command is
// gone.
const recoverInterval = 2 * time.Second

// turnPatience is how long a turn at recovering takes in which nothing happens.
const turnPatience = 2 * answerTimeout

// recoveryLanes is how many connections serve missing pages after the command has
// gone: one for those that tasks wait for, one for the others.
const recoveryLanes = 2

// errTurnOver is why an agent leaves a migration alone for a moment.
var errTurnOver = fmt.Errorf("target did not get on within %v", turnPatience)

// Recover goes on, until ctx is done, with migrations away from this host whose
// command has ended: it asks the target how they stand, and resumes or ends the
// paused sandbox accordingly. Those whose command is alive are left to it.
func (r *Receiver) Recover(ctx context.Context) {
	r.sweep(ctx)
	var turns turns
	defer turns.all.Wait()
	for {
		r.recoverAll(ctx, &turns)
		select {
		case <-ctx.Done():
			return
		case <-time.After(recoverInterval):
		}
	}
}

// turns are the sandboxes that are being looked after: one that serves pages takes
// long, and no other waits for it.
type turns struct {
	all  sync.WaitGroup
	busy sync.Map // by sandbox
}

func (r *Receiver) recoverAll(ctx context.Context, turns *turns) {
	ids, err := journal.List(r.Journals)
	if err != nil {
		r.Logger.Error("journals cannot be listed", "error", err)
		return
	}
	for _, id := range ids {
		if _, busy := turns.busy.LoadOrStore(id, true); busy {
			continue
		}
		turns.all.Go(func() {
			defer turns.busy.Delete(id)
			if err := r.recover(ctx, id); err != nil && !errors.Is(err, journal.ErrLocked) {
				r.Logger.Warn("migration is not over", "sandbox", id, "error", err)
			}
		})
	}
}

// recover goes on with one sandbox's last attempt, if this host is its source.
func (r *Receiver) recover(ctx context.Context, id string) error {
	// Reading needs no lock: most journals have nothing to do.
	if h, err := journal.Read(r.Journals, id); err != nil || !r.needsRecovery(h, id) {
		return err
	}
	j, err := journal.Open(r.Journals, id)
	if err != nil {
		return err
	}
	defer j.Close()
	last, _ := j.History().Current()
	if !r.needsRecovery(j.History(), id) {
		return nil
	}
	other, err := r.counterpartOf(id, last)
	if err != nil {
		return err
	}
	// One turn: what is not over by then is looked at again, and meanwhile an operator
	// can have the journal. It lasts as long as the target gets on.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	turn := time.AfterFunc(turnPatience, func() { cancel(errTurnOver) })
	defer turn.Stop()
	other.heard = func(*wire.Standing) {}
	other.pages.advanced = func() { turn.Reset(turnPatience) }
	defer other.pages.close()
	source := &handover.Source{
		Journal: j, Counterpart: other,
		Original: original{root: r.Root, id: id, to: fmt.Sprintf("%s (%s)", last.Peer, last.Address), notAfter: last.Time},
	}
	outcome, _, err := source.Recover(ctx)
	if other.link != nil {
		other.link.close()
	}
	if err == nil {
		r.recovered.Add(1)
		r.Logger.Info("migration is over", "sandbox", id, "attempt", last.Attempt.String(), "outcome", string(outcome))
	}
	return err
}

// needsRecovery says whether something of a sandbox's last attempt may be left to
// be done on this host as its source.
func (r *Receiver) needsRecovery(h *journal.History, id string) bool {
	last, ok := h.Current()
	if !ok || last.Role != journal.Source {
		return false
	}
	if last.State == journal.Begun || last.State == journal.HandedOver {
		return true
	}
	sb, err := r.Root.Open(id)
	if err != nil || !sb.Sandbox.Alive() || sb.Created.After(last.Time) {
		return false
	}
	// A sandbox that is paused, or alive although it departed, was not seen to.
	return last.State == journal.Departed || string(sb.Status(context.Background())) == statusPaused
}

// statusCreating is the status of a container that is not ready yet.
const statusCreating = "creating"

// statusPaused is the status of a sandbox whose tasks stand still.
const statusPaused = "paused"

// counterpartOf is the target of an attempt in the journal.
func (r *Receiver) counterpartOf(id string, last journal.Record) (*counterpart, error) {
	build, err := thisBuild()
	if err != nil {
		return nil, err
	}
	other := &counterpart{
		hello: &wire.Hello{Build: build, Sandbox: id, Epoch: last.Epoch, Mode: string(PreCopy), DataConnections: recoveryLanes},
		pages: &pageService{
			codec: wire.CodecAuto, pace: wire.NewPace(0), patience: answerTimeout, renewed: func(*lanes) {},
			open: func(ctx context.Context) (*os.File, error) {
				sb, err := r.Root.Open(id)
				if err != nil {
					return nil, err
				}
				return checkpoint.StoppedMemory(ctx, sb)
			},
		},
	}
	peer, err := r.Keys.Peer(last.Peer)
	if err != nil || peer.Key.Fingerprint() != last.PeerKey {
		// Nobody can be asked. What needs no answer is done all the same.
		other.unreachable = fmt.Errorf("peer %q is not trusted any more by the key %s", last.Peer, last.PeerKey)
		return other, nil
	}
	other.to = whereTo{identity: r.Identity, peer: peer, address: last.Address}
	return other, nil
}

// sweep removes what an agent before this one left of sandboxes that were never
// started: their processes ended with it.
func (r *Receiver) sweep(ctx context.Context) {
	all, err := r.Root.List()
	if err != nil {
		r.Logger.Error("sandboxes cannot be listed", "error", err)
		return
	}
	for _, sb := range all {
		switch {
		case !r.neverStarted(sb):
		case sb.Sandbox.Alive():
			go r.sweepOnceEnded(ctx, sb)
		case sb.Status(ctx) == statusCreating: // it is arriving just now
		default:
			r.removeRemains(ctx, sb)
		}
	}
}

// neverStarted says whether a sandbox, or a container of one, came by an attempt that
// has not started it. What ran here is the operator's.
func (r *Receiver) neverStarted(sb *sandbox.Sandbox) bool {
	id, ok := attemptOf(sb.RestoredFrom)
	if !ok {
		return false
	}
	h, err := journal.Read(r.Journals, cmp.Or(sb.SandboxID, sb.ID))
	if err != nil {
		r.Logger.Warn("journal cannot be read", "sandbox", sb.ID, "error", err)
		return false
	}
	state := h.Last(id).State
	return state == journal.None || state == journal.Refused
}

// sweepOnceEnded removes what is left of a standby whose process has only begun to
// notice that its agent has gone. One that belongs to this agent does not end, or is
// somebody else's to remove.
func (r *Receiver) sweepOnceEnded(ctx context.Context, sb *sandbox.Sandbox) {
	for deadline := time.Now().Add(endPatience); sb.Sandbox.Alive(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return
		}
	}
	// Another of its name may have come meanwhile.
	now, err := r.Root.Open(sb.ID)
	if err == nil && now.Sandbox == sb.Sandbox && now.RestoredFrom == sb.RestoredFrom && r.neverStarted(now) {
		r.removeRemains(ctx, now)
	}
}

func (r *Receiver) removeRemains(ctx context.Context, sb *sandbox.Sandbox) {
	if err := sb.Delete(ctx, true); err != nil {
		r.Logger.Warn("remains of a standby", "sandbox", sb.ID, "error", err)
	}
}

// attemptOf reads what cameBy wrote.
func attemptOf(from string) (attempt.ID, bool) {
	rest, ok := strings.CutPrefix(from, "migration ")
	text, _, cut := strings.Cut(rest, " from ")
	id, err := attempt.Parse(text)
	return id, ok && cut && err == nil
}
