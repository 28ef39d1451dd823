package wire

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// Rendezvous joins data connections to the attempt that waits for them. The zero Rendezvous is ready; all methods
// may be called concurrently.
type Rendezvous struct {
	mu sync.Mutex
	// waiting has the attempts that expect connections. Guarded by mu, as are the fields of its values.
	waiting map[attempt.ID]*Meeting
}

// Meeting is one attempt that expects its data connections.
type Meeting struct {
	rendezvous *Rendezvous
	id         attempt.ID
	peer       string

	seats   []bool        // by index: a connection came and is being answered, or is there
	conns   []net.Conn    // by index; nil where it is not there
	missing int           // how many are not there
	all     chan struct{} // closed when missing is 0
	ended   bool          // taken or closed: the connections are not the meeting's any longer
}

// Expect announces that count data connections of an attempt are to come from a peer, named by whatever
// identifies its key. The caller must call Close.
func (r *Rendezvous) Expect(id attempt.ID, peer string, count int) (*Meeting, error) {
	if count < 1 || count > MaxDataConnections {
		return nil, failf(CodeLength, "%d data connections (1 to %d)", count, MaxDataConnections)
	}
	m := &Meeting{
		rendezvous: r, id: id, peer: peer,
		seats: make([]bool, count), conns: make([]net.Conn, count), missing: count, all: make(chan struct{}),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[id] != nil {
		return nil, failf(CodeAttempt, "attempt %v already expects data connections", id)
	}
	if r.waiting == nil {
		r.waiting = make(map[attempt.ID]*Meeting)
	}
	r.waiting[id] = m
	return m, nil
}

// Offer answers preamble p of a connection that a peer opened, and hands the connection over to the attempt that
// expects it. After an error the connection stays the caller's, to close.
//
// An attempt that another peer opened is StatusUnknown: who does not have the key learns nothing about it.
//
// Preconditions: p comes from ReadPreamble.
func (r *Rendezvous) Offer(conn net.Conn, p Preamble, peer string) error {
	m, status := r.seat(p, peer)
	p.Status = status
	err := WritePreamble(conn, p)
	if status != StatusOK {
		return failf(CodeRefused, "data connection %d of attempt %v refused: %v", p.Index, p.Attempt, status)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && m.ended {
		err = net.ErrClosed
	}
	if err != nil {
		m.seats[p.Index] = false
		return fmt.Errorf("take data connection %d of attempt %v: %w", p.Index, p.Attempt, err)
	}
	// Only now: whoever waits may write at once, and the answer must come first.
	m.conns[p.Index] = conn
	if m.missing--; m.missing == 0 {
		close(m.all)
	}
	return nil
}

// seat reserves the place of one connection.
func (r *Rendezvous) seat(p Preamble, peer string) (*Meeting, Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.waiting[p.Attempt]
	if m == nil || m.peer != peer || int(p.Count) != len(m.conns) {
		return nil, StatusUnknown
	}
	if m.seats[p.Index] {
		return nil, StatusTaken
	}
	m.seats[p.Index] = true
	return m, StatusOK
}

// Wait returns the connections by index once all have come. They belong to the caller then.
func (m *Meeting) Wait(ctx context.Context) ([]net.Conn, error) {
	select {
	case <-m.all:
	case <-ctx.Done():
		m.rendezvous.mu.Lock()
		defer m.rendezvous.mu.Unlock()
		return nil, fmt.Errorf("wait for data connections of attempt %v, %d of %d missing: %w",
			m.id, m.missing, len(m.conns), context.Cause(ctx))
	}
	m.rendezvous.mu.Lock()
	defer m.rendezvous.mu.Unlock()
	if m.ended {
		return nil, fmt.Errorf("wait for data connections of attempt %v: %w", m.id, net.ErrClosed)
	}
	m.ended = true
	delete(m.rendezvous.waiting, m.id)
	return m.conns, nil
}

// Close ends the waiting and closes the connections that came, unless Wait returned them. It may be called twice.
func (m *Meeting) Close() {
	m.rendezvous.mu.Lock()
	ended := m.ended
	m.ended = true
	if !ended {
		delete(m.rendezvous.waiting, m.id)
	}
	m.rendezvous.mu.Unlock()
	if ended {
		return
	}
	for _, conn := range m.conns {
		if conn != nil {
			conn.Close()
		}
	}
}
