package agent

import (
	"context"
	"net"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// Session is one control connection of a trusted peer.
type Session struct {
	Peer    hostkey.Peer
	Control *wire.ControlConn // this side is the target
	Conn    net.Conn          // below Control, for deadlines

	agent *Agent

	mu sync.Mutex
	// admitted and memoryBytes are what the session holds. Guarded by mu.
	admitted    bool
	memoryBytes uint64
}

// Attempt returns the attempt that the connection is about.
func (s *Session) Attempt() attempt.ID { return s.Control.Attempt() }

// Stopping is closed when the agent takes nothing new: a session that can be aborted should be.
func (s *Session) Stopping() <-chan struct{} { return s.agent.stopping }

// ExpectData announces count data connections of this attempt and this peer. The caller closes the meeting.
func (s *Session) ExpectData(count int) (*wire.Meeting, error) {
	return s.agent.meeting.Expect(s.Attempt(), s.Peer.Key.String(), count)
}

// Admit counts this session as a migration that needs so much memory, or changes how much it needs. It returns a
// *LimitError where there is no room, and what was admitted before stays. The session's end gives everything back.
func (s *Session) Admit(memoryBytes uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.agent.seats.admit(!s.admitted, s.memoryBytes, memoryBytes); err != nil {
		return err
	}
	s.admitted, s.memoryBytes = true, memoryBytes
	return nil
}

func (s *Session) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admitted {
		s.agent.seats.dismiss(s.memoryBytes)
		s.admitted, s.memoryBytes = false, 0
	}
}

// converse answers a control connection's preamble and lets the handler have it until it is done.
func (a *Agent) converse(ctx context.Context, conn net.Conn, from arrival) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A handler that waits for its peer ends with its context.
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	if err := wire.WritePreamble(conn, from.preamble); err != nil {
		a.log.Info("peer is gone", "peer", from.peer.Name, "error", err)
		return
	}
	s := &Session{
		Peer: from.peer, Conn: conn, agent: a,
		Control: wire.NewControlConn(conn, wire.Target, from.preamble.Attempt),
	}
	defer s.dismiss()
	a.options.Handle(ctx, s)
}
