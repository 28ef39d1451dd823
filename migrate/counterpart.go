package migrate

import (
	"context"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// How long a source waits for the target to be reached, and for an answer that
// says more.
const (
	dialTimeout   = 10 * time.Second
	answerTimeout = 15 * time.Second
)

// counterpart is the target, for package handover. It connects again when the
// connection is lost.
type counterpart struct {
	to    whereTo
	hello *wire.Hello
	link  *link // nil if there is none
	// heard is told every standing.
	heard func(*wire.Standing)
	// unreachable is why nobody can be asked, nil if somebody can.
	unreachable error
	// pages serves what is missing on the target; nil where nothing can be.
	pages *pageService
}

// Commit implements handover.Counterpart.
func (c *counterpart) Commit(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	failpoint.Here(failpoint.SourceHanded)
	return c.ask(ctx, id, epoch, &wire.Commit{Epoch: epoch})
}

// Query implements handover.Counterpart.
func (c *counterpart) Query(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	return c.ask(ctx, id, epoch, &wire.Query{Epoch: epoch})
}

// ask sends a question and waits for the answer that ends the matter, or for the
// best there is until answerTimeout. As long as pages are missing, it serves them.
func (c *counterpart) ask(ctx context.Context, id attempt.ID, epoch attempt.Epoch, question wire.Message) (attempt.Standing, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	l, err := c.connect(ctx, id)
	if err != nil {
		return "", err
	}
	best := attempt.Unreachable
	err = l.control.Send(question)
	for err == nil {
		var answer *wire.Standing
		if answer, err = expect[*wire.Standing](ctx, l); err != nil {
			break
		}
		c.heard(answer)
		best = answer.Standing
		if answer.PagesMissing > 0 && c.pages != nil {
			return c.attend(whole, id, epoch)
		}
		if best != attempt.Owner && best != attempt.Incomplete {
			return best, nil
		}
	}
	if ctx.Err() == nil {
		// A connection that failed is of no use any more.
		l.close()
		c.link = nil
	}
	if best != attempt.Unreachable {
		return best, nil
	}
	return "", err
}

// connect returns the connection, or a new one that is introduced to the target.
func (c *counterpart) connect(ctx context.Context, id attempt.ID) (*link, error) {
	if c.link != nil || c.unreachable != nil {
		return c.link, c.unreachable
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := c.to.dial(ctx, id)
	if err != nil {
		return nil, err
	}
	if err = l.control.Send(c.hello); err == nil {
		_, err = expect[*wire.Welcome](ctx, l)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	c.link = l
	return l, nil
}
