package migrate

import (
	"context"
	"errors"
	"sync"
)

// ErrCancelled says that somebody cancelled the migration. The sandbox runs on here.
var ErrCancelled = errors.New("migration was cancelled")

// ErrTooLate says that a migration cannot be cancelled any more: it is handed over, or over.
var ErrTooLate = errors.New("too late to cancel")

// Canceller cancels a migration as long as that is possible. The zero Canceller is ready.
type Canceller struct {
	mu sync.Mutex
	// cancel ends the migration's context, nil before it began. Guarded by mu, as is everything below.
	cancel    context.CancelCauseFunc
	cancelled bool
	committed bool
}

// Cancel cancels the migration. It returns ErrTooLate where that is not possible any more; after nil the sandbox
// will not have moved.
func (c *Canceller) Cancel() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.committed {
		return ErrTooLate
	}
	c.cancelled = true
	if c.cancel != nil {
		c.cancel(ErrCancelled)
	}
	return nil
}

// begin returns the context of the migration's cancellable part.
func (c *Canceller) begin(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	c.cancel = cancel
	if c.cancelled {
		cancel(ErrCancelled)
	}
	return ctx, cancel
}

func (c *Canceller) isCancelled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cancelled
}

// commit ends the time for cancelling, unless it was used.
func (c *Canceller) commit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancelled {
		return ErrCancelled
	}
	c.committed = true
	return nil
}
