package agent

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// patience bounds what a test waits for; nothing is measured by it.
const patience = 30 * time.Second

// fixture is an agent that serves, and a peer that it trusts.
type fixture struct {
	agent   *Agent
	address string
	server  hostkey.Peer
	client  hostkey.Identity
	stop    context.CancelFunc
	served  chan error // what Serve returned
}

func newIdentity(t *testing.T) hostkey.Identity {
	t.Helper()
	identity, err := hostkey.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// start runs an agent until the test ends. Its listener is wrapped by wrap, if that is not nil.
func start(t *testing.T, limits Limits, handle Handler, wrap func(net.Listener) net.Listener) *fixture {
	t.Helper()
	store := hostkey.Open(filepath.Join(t.TempDir(), "keys"))
	own, err := store.Init()
	if err != nil {
		t.Fatal(err)
	}
	client := newIdentity(t)
	if err := store.Trust("client", client.Public()); err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Identity: own, Trust: store, Handle: handle, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		agent: a, address: listener.Addr().String(), client: client,
		server: hostkey.Peer{Name: "server", Key: own.Public()}, served: make(chan error, 1),
	}
	if wrap != nil {
		listener = wrap(listener)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.served <- a.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := f.wait(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// wait waits for Serve to return. It may be called again.
func (f *fixture) wait() error {
	select {
	case err := <-f.served:
		f.served <- err
		return err
	case <-time.After(patience):
		return errors.New("it does not end")
	}
}

func (f *fixture) dial(t *testing.T, p wire.Preamble) (*tls.Conn, error) {
	return f.dialAs(t, f.client, p)
}

func (f *fixture) dialAs(t *testing.T, as hostkey.Identity, p wire.Preamble) (*tls.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := Dial(ctx, f.address, as, f.server, p)
	if err == nil {
		conn.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func control() wire.Preamble { return wire.Preamble{Kind: wire.KindControl, Attempt: attempt.New()} }

// echo answers each query with a standing, until the peer is gone.
func echo(_ context.Context, s *Session) {
	for {
		m, err := s.Control.Receive()
		if err != nil {
			return
		}
		if q, ok := m.(*wire.Query); ok {
			s.Control.Send(&wire.Standing{Standing: attempt.Complete, Epoch: q.Epoch})
		}
	}
}

// mustWork fails unless a trusted peer gets an answer now.
func (f *fixture) mustWork(t *testing.T) {
	t.Helper()
	p := control()
	conn, err := f.dial(t, p)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := wire.NewControlConn(conn, wire.Source, p.Attempt)
	if err := c.Send(&wire.Query{Epoch: 7}); err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive()
	if got, ok := m.(*wire.Standing); err != nil || !ok || got.Epoch != 7 {
		t.Fatal(m, err)
	}
}

func TestTrustedPeerGetsItsSession(t *testing.T) {
	names := make(chan string, 1)
	f := start(t, Limits{}, func(ctx context.Context, s *Session) {
		names <- s.Peer.Name
		echo(ctx, s)
	}, nil)
	f.mustWork(t)
	if name := <-names; name != "client" {
		t.Fatal(name)
	}
}

func TestServesAmongAThousandIdleConnections(t *testing.T) {
	f := start(t, Limits{HandshakeTimeout: time.Hour}, echo, nil)
	for i := range 1000 {
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
	}
	f.mustWork(t)
	f.agent.lobby.mu.Lock()
	inLobby := len(f.agent.lobby.guests)
	f.agent.lobby.mu.Unlock()
	if inLobby > 64 {
		t.Fatalf("%d connections in the lobby", inLobby)
	}
}

func TestSilenceIsEndedInTime(t *testing.T) {
	f := start(t, Limits{HandshakeTimeout: 10 * time.Millisecond}, echo, nil)
	for name, speak := range map[string]func(net.Conn){
		"says nothing":        func(net.Conn) {},
		"half a client hello": func(c net.Conn) { c.Write([]byte{22, 3, 1, 2, 0, 1}) },
	} {
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		speak(conn)
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(conn); isTimeout(err) {
			t.Errorf("who %s is kept", name)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestGarbageDoesNotEndTheAgent(t *testing.T) {
	f := start(t, Limits{}, echo, nil)
	for _, garbage := range []string{
		"", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n", strings.Repeat("\x00", 1<<16), strings.Repeat("\xff", 1<<16),
		"\x16\x03\x01\xff\xff" + strings.Repeat("a", 70000), "\x15\x03\x03\x00\x02\x02\x00",
	} {
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, garbage)
		conn.(*net.TCPConn).CloseWrite()
		io.ReadAll(conn)
		conn.Close()
	}
	f.mustWork(t)
}

func TestUntrustedPeerIsTold(t *testing.T) {
	reached := make(chan struct{}, 1)
	f := start(t, Limits{}, func(context.Context, *Session) { reached <- struct{}{} }, nil)
	if _, err := f.dialAs(t, newIdentity(t), control()); !errors.Is(err, hostkey.ErrRefusedByPeer) {
		t.Fatal(err)
	}
	f.stop()
	if err := f.wait(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
		t.Fatal("it has a session")
	default:
	}
	if s := f.agent.Stats(); s.Unproved != 1 || s.Sessions != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestDialRefusesAnotherHost(t *testing.T) {
	f := start(t, Limits{}, echo, nil)
	f.server.Key = newIdentity(t).Public()
	if _, err := f.dial(t, control()); !errors.Is(err, hostkey.ErrUntrusted) {
		t.Fatal(err)
	}
}

// trustedRaw is a connection of the trusted peer that has not sent its preamble.
func (f *fixture) trustedRaw(t *testing.T) *tls.Conn {
	t.Helper()
	config, err := hostkey.ClientTLS(f.client, hostkey.Pinned(f.server))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", f.address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestTrustedGarbageDoesNotEndTheAgent(t *testing.T) {
	f := start(t, Limits{}, echo, nil)
	id := attempt.New()
	for _, garbage := range [][]byte{nil, []byte("SBXM"), make([]byte, 32), make([]byte, 1<<16)} {
		conn := f.trustedRaw(t)
		conn.Write(garbage)
		conn.CloseWrite()
		if b, err := io.ReadAll(conn); len(b) != 0 {
			t.Errorf("answered %x, %v", b, err)
		}
	}
	// A right preamble, then a message that claims 2^32-1 bytes.
	conn, err := f.dial(t, wire.Preamble{Kind: wire.KindControl, Attempt: id})
	if err != nil {
		t.Fatal(err)
	}
	conn.Write([]byte{255, 255, 255, 255})
	if b, err := io.ReadAll(conn); len(b) != 0 || err != nil {
		t.Errorf("answered %x, %v", b, err)
	}
	f.mustWork(t)
}

func TestAnotherVersionIsToldOurs(t *testing.T) {
	f := start(t, Limits{}, echo, nil)
	conn := f.trustedRaw(t)
	// A preamble of version 77, by hand: its layout is fixed for ever.
	b := append([]byte("SBXM"), 77, 0, 1, 0)
	b = append(b, make([]byte, 20)...)
	b[8] = 1
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	answer, err := wire.ReadPreamble(conn)
	if err != nil || answer.Status != wire.StatusVersion || answer.Version != wire.Version {
		t.Fatal(answer, err)
	}
}

func TestDataConnectionsJoinTheirSession(t *testing.T) {
	const count = 3
	results := make(chan error, 1)
	expecting := make(chan struct{})
	f := start(t, Limits{}, func(ctx context.Context, s *Session) {
		m, err := s.ExpectData(count)
		if err != nil {
			results <- err
			return
		}
		defer m.Close()
		close(expecting)
		conns, err := m.Wait(ctx)
		for _, conn := range conns {
			defer conn.Close()
			if err == nil {
				_, err = wire.NewReader(conn).Next()
			}
		}
		results <- err
	}, nil)
	p := control()
	if _, err := f.dial(t, wire.Preamble{Kind: wire.KindData, Attempt: p.Attempt, Count: count}); !errors.Is(err, wire.ErrRefused) {
		t.Fatalf("a data connection of no attempt: %v", err)
	}
	if _, err := f.dial(t, p); err != nil {
		t.Fatal(err)
	}
	<-expecting
	for i := range uint16(count) {
		conn, err := f.dial(t, wire.Preamble{Kind: wire.KindData, Attempt: p.Attempt, Index: i, Count: count})
		if err != nil {
			t.Fatal(err)
		}
		w, err := wire.NewWriter(conn, wire.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.WriteFrame(wire.TypeBarrier, 0, wire.AppendBarrier(nil, 1)), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-results; err != nil {
		t.Fatal(err)
	}
}

func TestConnectionLimits(t *testing.T) {
	f := start(t, Limits{ConnectionsPerPeer: 2}, echo, nil)
	first, err := f.dial(t, control())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.dial(t, control()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.dial(t, control()); !errors.Is(err, wire.ErrRefused) || !strings.Contains(err.Error(), "limit") {
		t.Fatalf("a third connection: %v", err)
	}
	first.Close()
	for tries := 0; ; tries++ { // the agent notices in its own time
		if _, err = f.dial(t, control()); err == nil {
			break
		}
		if tries > 1000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAdmission(t *testing.T) {
	a := &Agent{seats: seats{limits: Limits{Migrations: 2, MemoryBytes: 100}.withDefaults()}}
	session := func() *Session { return &Session{agent: a} }
	refused := func(err error, limit string) {
		t.Helper()
		var full *LimitError
		if !errors.As(err, &full) || full.Limit != limit {
			t.Fatal(err)
		}
	}
	one, two, three := session(), session(), session()
	if err := one.Admit(60); err != nil {
		t.Fatal(err)
	}
	refused(two.Admit(41), "memory")
	refused(two.Admit(1<<64-1), "memory")
	if err := two.Admit(40); err != nil {
		t.Fatal(err)
	}
	refused(three.Admit(0), "migrations")
	refused(one.Admit(61), "memory")
	if err := one.Admit(10); err != nil {
		t.Fatal(err)
	}
	if err := two.Admit(90); err != nil {
		t.Fatal(err)
	}
	one.dismiss()
	one.dismiss()
	if err := three.Admit(10); err != nil {
		t.Fatal(err)
	}
	two.dismiss()
	three.dismiss()
	if a.seats.migrations != 0 || a.seats.memoryBytes != 0 {
		t.Fatalf("left over: %d migrations, %d bytes", a.seats.migrations, a.seats.memoryBytes)
	}
}

func TestLobbyPutsOutWhoHasMost(t *testing.T) {
	l := &lobby{size: 3}
	enter := func(address string) *guest {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		g, _ := l.enter(&fakeConn{Conn: near, remote: address})
		return g
	}
	quiet := enter("192.0.2.1:1")
	a, b := enter("192.0.2.9:1"), enter("192.0.2.9:2")
	c := enter("192.0.2.9:3")
	if l.leave(a) {
		t.Fatal("the oldest of the many is still there")
	}
	if !l.leave(quiet) || !l.leave(b) || !l.leave(c) {
		t.Fatal("somebody else was put out")
	}
	l.close()
	if late := enter("192.0.2.1:2"); l.leave(late) {
		t.Fatal("a closed lobby lets people in")
	}
}

type fakeConn struct {
	net.Conn
	remote string
}

func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(c.remote) }

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

// failingListener fails a few times before it works.
type failingListener struct {
	net.Listener
	mu       sync.Mutex
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	failures := l.failures
	l.failures--
	l.mu.Unlock()
	if failures > 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestAcceptIsTriedAgain(t *testing.T) {
	f := start(t, Limits{}, echo, func(l net.Listener) net.Listener {
		return &failingListener{Listener: l, failures: 3}
	})
	f.mustWork(t)
	if got := f.agent.Stats().AcceptErrors; got != 3 {
		t.Fatal(got)
	}
}

func TestStopWaitsForSessions(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	f := start(t, Limits{Grace: time.Hour}, func(_ context.Context, s *Session) {
		close(inside)
		<-s.Stopping()
		<-leave
	}, nil)
	if _, err := f.dial(t, control()); err != nil {
		t.Fatal(err)
	}
	idle, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	<-inside
	f.stop()
	idle.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(idle); isTimeout(err) {
		t.Fatal("who is in the lobby is kept")
	}
	select {
	case err := <-f.served:
		t.Fatalf("Serve returned with a session under way: %v", err)
	default:
	}
	close(leave)
	if err := f.wait(); err != nil {
		t.Fatal(err)
	}
}

func TestStopEndsSessionsAfterTheGrace(t *testing.T) {
	inside := make(chan struct{})
	f := start(t, Limits{Grace: time.Millisecond}, func(_ context.Context, s *Session) {
		close(inside)
		s.Control.Receive() // for ever, but for the connection's end
	}, nil)
	if _, err := f.dial(t, control()); err != nil {
		t.Fatal(err)
	}
	<-inside
	f.stop()
	if err := f.wait(); err != nil {
		t.Fatal(err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(10*time.Millisecond, func() { cancel(gaveUp) })
	if _, err := Dial(ctx, listener.Addr().String(), newIdentity(t), hostkey.Peer{Name: "nobody"}, control()); !errors.Is(err, gaveUp) {
		t.Fatal(err)
	}
}
