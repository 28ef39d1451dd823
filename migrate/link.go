package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// link is the source's end of a control connection.
type link struct {
	control  *wire.ControlConn
	conn     net.Conn
	messages chan wire.Message // closed when the connection has ended
	err      error             // why; read after messages is closed
}

// maxAhead bounds messages of the target that nobody has waited for yet.
const maxAhead = 16

// preparedTimeout bounds how long a stopped source waits for its target to load the kernel, from when everything was sent. A
// target that is cut off is noticed before, by agent.SilenceTimeout; this is for one that hangs.
const preparedTimeout = 30 * time.Second

// errNotPrepared is why a source does not wait any longer.
var errNotPrepared = fmt.Errorf("target is not prepared %v after everything was sent", preparedTimeout)

// whereTo is how a source reaches its target.
type whereTo struct {
	identity hostkey.Identity
	peer     hostkey.Peer
	address  string
}

// dial opens a control connection of an attempt.
func (w whereTo) dial(ctx context.Context, id attempt.ID) (*link, error) {
	conn, err := agent.Dial(ctx, w.address, w.identity, w.peer, wire.Preamble{Kind: wire.KindControl, Attempt: id})
	if err != nil {
		return nil, err
	}
	l := &link{control: wire.NewControlConn(conn, wire.Source, id), conn: conn, messages: make(chan wire.Message, maxAhead)}
	go l.receive()
	return l, nil
}

// dialData opens the data connections of an attempt.
func (w whereTo) dialData(ctx context.Context, id attempt.ID, count int) (conns []net.Conn, err error) {
	for i := range count {
		conn, err := agent.Dial(ctx, w.address, w.identity, w.peer,
			wire.Preamble{Kind: wire.KindData, Attempt: id, Index: uint16(i), Count: uint16(count)})
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func (l *link) receive() {
	defer close(l.messages)
	for {
		m, err := l.control.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("peer ended the connection")
			}
			l.err = err
			return
		}
		select {
		case l.messages <- m:
		default:
			l.err = errors.New("peer sends messages that nobody asked for")
			l.conn.Close()
			return
		}
	}
}

// next returns the next message.
func (l *link) next(ctx context.Context) (wire.Message, error) {
	select {
	case m, ok := <-l.messages:
		if !ok {
			return nil, l.err
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *link) close() { l.conn.Close() }

// expect returns the next message, which must be of type M. A refusal is a
// *RefusedError.
func expect[M wire.Message](ctx context.Context, l *link) (M, error) {
	var none M
	m, err := l.next(ctx)
	if err != nil {
		return none, err
	}
	switch m := m.(type) {
	case M:
		return m, nil
	case *wire.Refuse:
		return none, &RefusedError{Code: m.Code, Message: m.Message}
	}
	return none, fmt.Errorf("peer sent %T where %T is due", m, none)
}
