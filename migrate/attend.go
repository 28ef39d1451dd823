package migrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// How a source that serves pages watches its target.
const (
	// pollInterval is how often it asks how far the target is.
	pollInterval = 500 * time.Millisecond
	// linkPatience is how long an answer may take before the connections are taken for
	// lost.
	linkPatience = 3 * time.Second
	// redialTimeout bounds one try to connect again, and redialInterval is the time
	// between two.
	redialTimeout  = 3 * time.Second
	redialInterval = 300 * time.Millisecond
	// stallPatience is how long a target that answers may get on with nothing before a
	// person has to decide: its fetch has failed, or its kernel asks for nothing any more.
	stallPatience = time.Minute
)

// pageService serves missing pages over whatever connections there are.
type pageService struct {
	memory *os.File
	// open returns memory, where that is nil at first.
	open  func(context.Context) (*os.File, error)
	codec wire.Codec
	pace  *wire.Pace
	// patience is how long a target may be silent before somebody else has a say; 0 is
	// for ever.
	patience time.Duration
	// renewed is told of lanes that replace others.
	renewed func(*lanes)
	// advanced, if not nil, is told when the target gets on.
	advanced func()

	server *server // nil while there are no connections
}

// begin serves over lanes.
func (p *pageService) begin(l *lanes) (err error) {
	p.server, err = serve(p.memory, l)
	return err
}

// hangUp gives the connections up.
func (p *pageService) hangUp() {
	if p.server != nil {
		p.server.lanes.close()
		p.server = nil
	}
}

// close gives everything up, the memory included.
func (p *pageService) close() {
	p.hangUp()
	if p.memory != nil {
		p.memory.Close()
	}
}

// failed is closed when connections were lost; nil while there are none.
func (p *pageService) failed() <-chan struct{} {
	if p.server == nil {
		return nil
	}
	return p.server.failed
}

// compared returns how often the server went on with comparing what has come, over the
// connections at hand.
func (p *pageService) compared() uint64 {
	if p.server == nil {
		return 0
	}
	return p.server.compared.Load()
}

// advance is how far a target has got.
type advance struct {
	missing  uint64    // the fewest pages that it lacked
	compared uint64    // of the page service
	at       time.Time // when one of them last changed, or there was no connection
}

// note takes how far a target is now, and says whether that is farther.
func (a *advance) note(missing, compared uint64, now time.Time) bool {
	farther := missing < a.missing || compared > 0 && compared != a.compared
	a.missing, a.compared = min(a.missing, missing), compared
	if farther {
		a.at = now
	}
	return farther
}

// check is an error for a person where a target has been at the same place for too long.
func (a *advance) check(now time.Time) error {
	if now.Sub(a.at) < stallPatience {
		return nil
	}
	return fmt.Errorf("%w: target still lacks %d pages, none of them has come for %v: see its log, then resolve the migration on both hosts",
		handover.ErrOperator, a.missing, stallPatience)
}

// attend serves missing pages until the target says that it lacks none, or says
// something else. When the link is lost it connects again, as often as it takes. A
// target that answers and gets on with nothing is a handover.ErrOperator.
func (c *counterpart) attend(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (attempt.Standing, error) {
	heard := time.Now()
	far := advance{missing: math.MaxUint64, at: heard}
	for {
		answer, err := c.poll(ctx, id, epoch)
		for err == nil && answer != nil {
			heard = time.Now()
			c.heard(answer)
			if answer.Standing != attempt.Incomplete {
				return answer.Standing, nil
			}
			if far.note(answer.PagesMissing, c.pages.compared(), heard) && c.pages.advanced != nil {
				c.pages.advanced()
			}
			if err := far.check(heard); err != nil {
				return "", err
			}
			if err = c.ensureServing(ctx, id); err == nil {
				answer, err = c.news(ctx, pollInterval)
			}
		}
		if err == nil {
			continue
		}
		c.hangUp()
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if c.pages.patience > 0 && time.Since(heard) > c.pages.patience {
			return "", fmt.Errorf("target lacks pages and does not answer: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialInterval):
		}
		far.at = time.Now() // a lost connection is no reason to give up
	}
}

// hangUp gives all connections up: one that was lost is reason enough.
func (c *counterpart) hangUp() {
	c.pages.hangUp()
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
}

// poll asks how the target stands, over a new connection if there is none.
func (c *counterpart) poll(ctx context.Context, id attempt.ID, epoch attempt.Epoch) (*wire.Standing, error) {
	dialCtx, cancel := context.WithTimeout(ctx, redialTimeout)
	defer cancel()
	l, err := c.connect(dialCtx, id)
	if err != nil {
		return nil, err
	}
	if err := l.control.Send(&wire.Query{Epoch: epoch}); err != nil {
		return nil, err
	}
	answer, err := c.news(ctx, linkPatience)
	if err == nil && answer == nil {
		err = fmt.Errorf("target has not answered within %v", linkPatience)
	}
	return answer, err
}

// news waits for the target to say how it stands, or returns nil.
func (c *counterpart) news(ctx context.Context, within time.Duration) (*wire.Standing, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case m, ok := <-c.link.messages:
		if !ok {
			return nil, c.link.err
		}
		standing, ok := m.(*wire.Standing)
		if !ok {
			return nil, fmt.Errorf("peer sent %T where its standing is due", m)
		}
		return standing, nil
	case <-c.pages.failed():
		return nil, errors.New("data connection ended")
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ensureServing makes data connections, if there are none.
func (c *counterpart) ensureServing(ctx context.Context, id attempt.ID) (err error) {
	if c.pages.server != nil {
		return nil
	}
	dialCtx, cancel := context.WithTimeout(ctx, redialTimeout)
	defer cancel()
	if c.pages.memory == nil {
		if c.pages.memory, err = c.pages.open(dialCtx); err != nil {
			return err
		}
	}
	conns, err := c.to.dialData(dialCtx, id, int(c.hello.DataConnections))
	if err != nil {
		return err
	}
	l, err := newLanes(ctx, conns, c.pages.codec, c.pages.pace)
	if err != nil {
		return err
	}
	if err := c.pages.begin(l); err != nil {
		l.close()
		return err
	}
	c.pages.renewed(l)
	return nil
}
