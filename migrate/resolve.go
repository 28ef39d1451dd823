package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// Standing is how a sandbox's last attempt stands on this host.
type Standing struct {
	Sandbox string         `json:"sandbox"`
	Last    journal.Record `json:"last"`
	// Open says that the attempt is under way, or waits for the other host or for a decision.
	Open bool `json:"open"`
	// Live is the newest event, where a command of this host is at it.
	Live *Event `json:"live,omitempty"`
}

// List returns the last attempt of each sandbox that has one, by the sandboxes' ids.
func List(ctx context.Context, journals, sockets string) ([]Standing, error) {
	ids, err := journal.List(journals)
	if err != nil {
		return nil, err
	}
	all := []Standing{}
	for _, id := range ids {
		h, err := journal.Read(journals, id)
		if err != nil {
			return nil, err
		}
		last, ok := h.Current()
		if !ok {
			continue
		}
		s := Standing{Sandbox: id, Last: last}
		_, s.Open = h.Unfinished()
		if e, err := Progress(ctx, sockets, id); err == nil {
			s.Live = &e
		}
		all = append(all, s)
	}
	return all, nil
}

// resolvePatience is longer than an agent's turn at recovering.
const resolvePatience = 3 * answerTimeout

// Resolve carries out an operator's choice about an attempt whose end cannot be known: that the sandbox is the
// one here, or that it is elsewhere. What is not true then is the operator's responsibility: choosing "here" on both hosts
// makes two copies.
func Resolve(ctx context.Context, root sandbox.Root, journals, id string, choice journal.Choice) (journal.State, error) {
	j, err := openJournalWithin(ctx, journals, id, resolvePatience)
	if err != nil {
		return "", err
	}
	defer j.Close()
	last, ok := j.History().Unfinished()
	if !ok {
		last, _ = j.History().Current()
	}
	state, err := journal.Resolve(last.Role, last.State, choice)
	if err != nil {
		return "", err
	}
	r := last
	r.State, r.Time, r.Operator, r.Note = state, time.Now(), true, "resolved"
	if state == journal.TakenBack {
		r.Epoch = j.History().Epoch() + 1
	}
	if err := j.Append(r); err != nil {
		return "", err
	}
	o := original{root: root, id: id, to: fmt.Sprintf("%s (%s)", last.Peer, last.Address), notAfter: last.Time}
	switch state {
	case journal.TakenBack:
		return state, o.Resume(ctx)
	case journal.Departed:
		return state, o.Destroy(ctx)
	}
	return state, discardArrived(ctx, root, id, last)
}

// discardArrived ends and removes what an attempt brought.
func discardArrived(ctx context.Context, root sandbox.Root, id string, last journal.Record) error {
	sb, err := root.Open(id)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if came, ok := attemptOf(sb.RestoredFrom); !ok || came != last.Attempt {
		return nil
	}
	return sb.DeleteWhole(ctx)
}
