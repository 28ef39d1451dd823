package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

// ErrOperator: what is known does not say where the state is. A person decides; until then nothing is touched.
var ErrOperator = errors.New("a decision is needed")

// Journal is what this package needs of a *journal.Journal.
type Journal interface {
	Append(journal.Record) error
	History() *journal.History
}

// retries bounds how long a record that must be durable is tried, within one call: a full disk may take its time.
const retries = 5

// delays are how long to wait before the next try; the last one repeats.
var delays = []time.Duration{
	20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 10 * time.Second,
}

// pause waits before try n, from 0.
type pause func(ctx context.Context, n int) error

func sleep(ctx context.Context, n int) error {
	timer := time.NewTimer(delays[min(n, len(delays)-1)])
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// insist appends a record until it is durable. It gives up where the record is not legal, after some tries, or with
// ctx: then the caller must not act.
func insist(ctx context.Context, j Journal, wait pause, r journal.Record) error {
	for n := 0; ; n++ {
		r.Time = time.Now()
		err := j.Append(r)
		if err == nil || !errors.Is(err, journal.ErrUncertain) || n >= retries {
			return err
		}
		if waitErr := wait(ctx, n); waitErr != nil {
			return fmt.Errorf("%w (%w)", err, waitErr)
		}
	}
}

// follow makes the record that comes after another of the same attempt.
func follow(last journal.Record, state journal.State, note string) journal.Record {
	last.State, last.Note, last.Operator = state, note, false
	return last
}

// Peer says who is on the other side of an attempt, for the record.
type Peer struct {
	Name        string // under which its key is trusted
	Fingerprint string
	Address     string
}

func (p Peer) record(role journal.Role, state journal.State, id attempt.ID, epoch attempt.Epoch) journal.Record {
	return journal.Record{
		Role: role, State: state, Attempt: id, Epoch: epoch,
		Peer: p.Name, PeerKey: p.Fingerprint, Address: p.Address,
	}
}
