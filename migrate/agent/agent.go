package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// Handler does what a peer opened a control connection for. It returns when the connection ends or ctx is done, at which
// time the connection is closed as well. The agent closes the connection after it.
type Handler func(ctx context.Context, s *Session)

// Options say who this agent is, whom it serves, and how much.
type Options struct {
	Identity hostkey.Identity // of this host
	Trust    hostkey.Truster  // asked anew for every connection
	Handle   Handler
	Limits   Limits
	Logger   *slog.Logger // nil: no log
}

// Stats counts what happened since the agent was made.
type Stats struct {
	Accepted     uint64 // connections
	Evicted      uint64 // put out of a full lobby
	Unproved     uint64 // ended before a handshake and a preamble: garbage, silence, untrusted keys
	Refused      uint64 // of trusted peers: limits, unknown attempts, other versions
	Sessions     uint64 // control connections
	DataConns    uint64
	AcceptErrors uint64
}

// Agent receives connections. It serves once.
type Agent struct {
	options Options
	tls     *tls.Config
	log     *slog.Logger
	lobby   lobby
	seats   seats
	meeting wire.Rendezvous

	stopping chan struct{}  // closed when nothing new is taken
	running  sync.WaitGroup // goroutines of connections

	accepted, evicted, unproved, refused, sessions, dataConns, acceptErrors atomic.Uint64
}

// New returns an agent that is ready to Serve.
func New(options Options) (*Agent, error) {
	options.Limits = options.Limits.withDefaults()
	config, err := hostkey.ServerTLS(options.Identity, options.Trust)
	if err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	log := options.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Agent{
		options: options, tls: config, log: log,
		lobby:    lobby{size: options.Limits.Handshakes},
		seats:    seats{limits: options.Limits, perPeer: make(map[string]int)},
		stopping: make(chan struct{}),
	}, nil
}

// Stats returns the counts so far.
func (a *Agent) Stats() Stats {
	return Stats{
		Accepted: a.accepted.Load(), Evicted: a.evicted.Load(), Unproved: a.unproved.Load(), Refused: a.refused.Load(),
		Sessions: a.sessions.Load(), DataConns: a.dataConns.Load(), AcceptErrors: a.acceptErrors.Load(),
	}
}

// Serve takes connections until ctx is done or the listener is closed, and closes the listener. Then sessions have
// Limits.Grace to end by themselves (see Session.Stopping) before their contexts are cancelled and their connections closed.
// It returns when all of them have ended: nil after ctx was done, otherwise the listener's error.
func (a *Agent) Serve(ctx context.Context, listener net.Listener) error {
	// Sessions outlive ctx by the grace.
	sessionCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { listener.Close() })()

	err := a.acceptAll(ctx, sessionCtx, listener)
	listener.Close()
	close(a.stopping)
	a.lobby.close()

	ended := make(chan struct{})
	go func() { a.running.Wait(); close(ended) }()
	grace := time.NewTimer(a.options.Limits.Grace)
	defer grace.Stop()
	select {
	case <-ended:
	case <-grace.C:
		a.log.Warn("sessions did not end in time", "grace", a.options.Limits.Grace)
		cancel()
		<-ended
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// acceptAll takes connections until that is over.
func (a *Agent) acceptAll(ctx, sessionCtx context.Context, listener net.Listener) error {
	const firstDelay, mostDelay = 5 * time.Millisecond, time.Second
	delay := firstDelay
	for {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			delay = firstDelay
			a.accepted.Add(1)
			// Here, so that the lobby knows them in the order in which they came: whoever comes last is the last to be put out.
			g, evicted := a.lobby.enter(conn)
			if evicted {
				a.evicted.Add(1)
			}
			a.running.Add(1)
			go func() {
				defer a.running.Done()
				a.receive(sessionCtx, conn, g)
			}()
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		}
		// Out of descriptors or memory, or a connection that ended before it was accepted.
		a.acceptErrors.Add(1)
		a.log.Warn("accept failed", "error", err, "retry", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, mostDelay)
	}
}

// receive brings one connection from the lobby to its end, or to its attempt.
func (a *Agent) receive(ctx context.Context, raw net.Conn, g *guest) {
	conn, arrival, err := a.prove(raw)
	stayed := a.lobby.leave(g)
	if err != nil || !stayed {
		a.unproved.Add(1)
		a.log.Info("connection refused", "remote", raw.RemoteAddr().String(), "error", err)
		raw.Close()
		return
	}
	if err := a.seat(ctx, conn, arrival); err != nil {
		a.refused.Add(1)
		a.log.Info("peer refused", "peer", arrival.peer.Name, "error", err)
		raw.Close()
	}
}

// arrival is what a connection proved and asked for.
type arrival struct {
	peer     hostkey.Peer
	preamble wire.Preamble
	version  error // the peer speaks another version
}

// prove goes through handshake and preamble.
func (a *Agent) prove(raw net.Conn) (*tls.Conn, arrival, error) {
	if err := errors.Join(boundSilence(raw), raw.SetDeadline(time.Now().Add(a.options.Limits.HandshakeTimeout))); err != nil {
		return nil, arrival{}, err
	}
	conn := tls.Server(raw, a.tls)
	if err := conn.Handshake(); err != nil {
		return nil, arrival{}, fmt.Errorf("handshake: %w", err)
	}
	key, err := hostkey.KeyOf(conn)
	if err != nil {
		return nil, arrival{}, err
	}
	// Once more, for the name. A key that is removed at this moment is refused.
	peer, err := a.options.Trust.Lookup(key)
	if err != nil {
		return nil, arrival{}, err
	}
	preamble, err := wire.ReadPreamble(conn)
	if errors.Is(err, wire.ErrVersion) {
		return conn, arrival{peer, preamble, err}, nil
	}
	if err != nil {
		return nil, arrival{}, err
	}
	return conn, arrival{peer: peer, preamble: preamble}, nil
}

// seat gives a trusted peer's connection its place. After an error the caller closes the connection; without one that
// has been seen to.
func (a *Agent) seat(ctx context.Context, conn *tls.Conn, from arrival) error {
	if from.version != nil {
		return a.turnAway(conn, from, wire.StatusVersion, from.version)
	}
	select {
	case <-a.stopping:
		return a.turnAway(conn, from, wire.StatusStopping, net.ErrClosed)
	default:
	}
	key := from.peer.Key.String()
	release, err := a.seats.connect(key)
	if err != nil {
		return a.turnAway(conn, from, wire.StatusBusy, err)
	}
	seated := &seatedConn{Conn: conn, release: release}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		release()
		return err
	}
	if from.preamble.Kind == wire.KindData {
		if err := a.meeting.Offer(seated, from.preamble, key); err != nil {
			release()
			return err
		}
		a.dataConns.Add(1)
		return nil
	}
	a.sessions.Add(1)
	a.converse(ctx, seated, from)
	return nil
}

// turnAway tells a trusted peer why not.
func (a *Agent) turnAway(conn net.Conn, from arrival, status wire.Status, reason error) error {
	answer := from.preamble
	answer.Status = status
	// It need not arrive: the peer sees the end of the connection in any case.
	wire.WritePreamble(conn, answer)
	return reason
}

// seatedConn is a connection that gives up its seat when it is closed.
type seatedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

// Close closes the connection. It may be called more than once.
func (c *seatedConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}
