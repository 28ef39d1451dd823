package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// errNoData is why a target does not wait for a source's data connections any longer.
var errNoData = fmt.Errorf("they did not come within %v after the plan was accepted", planTimeout)

// received is the outcome of a receive.
type received struct {
	message wire.Message
	err     error
}

// receive returns the peer's next message. A peer that does not keep to the protocol is told so.
func (t *target) receive() (wire.Message, error) {
	m, err := t.session.Control.Receive()
	if broken := (*wire.Error)(nil); errors.As(err, &broken) {
		return nil, refuse(t.session, codeProtocol, err)
	}
	return m, err
}

// next is receive, after what awaitData received ahead.
func (t *target) next() (wire.Message, error) {
	if t.ahead == nil {
		return t.receive()
	}
	r := <-t.ahead
	t.ahead = nil
	return r.message, r.err
}

// awaitData waits for the data connections, if they are not there yet, as long as the control connection lasts: it is read meanwhile,
// since nothing else tells that the source has ended.
func (t *target) awaitData(ctx context.Context, meeting *wire.Meeting) error {
	if t.conns != nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, planTimeout, errNoData)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ahead := make(chan received, 1)
	t.ahead = ahead
	go func() {
		m, err := t.receive()
		if err != nil {
			end(err)
		}
		ahead <- received{m, err}
	}()
	conns, err := meeting.Wait(ctx)
	if err != nil {
		return err
	}
	t.conns = conns
	for _, conn := range conns {
		t.readers = append(t.readers, wire.NewReader(conn))
	}
	return nil
}
