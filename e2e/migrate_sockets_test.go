package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	serverAddress6, clientAddress6 = "fd09::2", "fd09::3"
	datagramPort, listenerPort     = "9001", "9002" // of the guest program sockets.py
	listenerBacklog                = 8              // of its listener
	descriptorsPassed              = 16             // that are on their way at any time
)

// server adds a machine for the guest, with addresses of both families. One that is not up waits for the guest to come.
func (l *lab) server(up bool) *os.File {
	l.t.Helper()
	ns := l.machine(serverMAC, serverAddress+"/24", up)
	l.addAddress(ns, serverAddress6+"/64")
	return ns
}

// client adds a machine for the test, with addresses of both families.
func (l *lab) client() *os.File {
	l.t.Helper()
	ns := l.machine(clientMAC, clientAddress+"/24", true)
	l.addAddress(ns, clientAddress6+"/64")
	return ns
}

// A questioner asks by UDP all the time, and does not wait for the answers.
type questioner struct {
	conn           net.Conn
	asked          atomic.Int64
	answered, last atomic.Int64 // number of answers, and the highest that was answered
	failure        atomic.Pointer[error]
	stop           chan struct{}
}

func askOn(t *testing.T, ns *os.File, address string) *questioner {
	t.Helper()
	conn, err := connectFrom(ns, unix.SOCK_DGRAM, net.JoinHostPort(address, datagramPort))
	if err != nil {
		t.Fatal(err)
	}
	q := &questioner{conn: conn, stop: make(chan struct{})}
	var both sync.WaitGroup
	both.Go(func() { q.note(q.ask()) })
	both.Go(func() { q.note(q.listen()) })
	t.Cleanup(func() { close(q.stop); conn.Close(); both.Wait() })
	return q
}

func (q *questioner) note(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		q.failure.CompareAndSwap(nil, &err)
	}
}

func (q *questioner) ask() error {
	for {
		select {
		case <-q.stop:
			return nil
		case <-time.After(5 * time.Millisecond):
		}
		if _, err := fmt.Fprintf(q.conn, "question %d", q.asked.Add(1)); err != nil {
			return err
		}
	}
}

func (q *questioner) listen() error {
	buf := make([]byte, 2048)
	for {
		n, err := q.conn.Read(buf)
		if err != nil {
			return err
		}
		var question int64
		if _, err := fmt.Sscanf(string(buf[:n]), "answer to question %d", &question); err != nil {
			return fmt.Errorf("answer %q: %w", buf[:n], err)
		}
		q.answered.Add(1)
		q.last.Store(max(q.last.Load(), question))
	}
}

// answers waits until questions that are asked from now on are answered.
func (q *questioner) answers(t *testing.T) {
	t.Helper()
	from := q.asked.Load()
	eventually(t, "questions by UDP are answered", func() bool { return q.failure.Load() != nil || q.last.Load() > from })
	if err := q.failure.Load(); err != nil {
		t.Fatalf("UDP, after %d answers: %v", q.answered.Load(), *err)
	}
}

// Visitors connect, ask and leave. None may be turned away.
type visitors struct {
	t         *testing.T
	ns        *os.File
	wg        sync.WaitGroup
	connected atomic.Int64
	served    atomic.Int64
}

// come lets one more visitor come, who gives up at the first error.
func (v *visitors) come(address string) {
	v.wg.Go(func() {
		if err := v.visit(address); err != nil {
			v.t.Errorf("visitor of %s: %v", address, err)
			return
		}
		v.served.Add(1)
	})
}

func (v *visitors) visit(address string) error {
	conn, err := dialFrom(v.ns, net.JoinHostPort(address, listenerPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	question := fmt.Sprintf("visitor %d\n", v.connected.Add(1))
	if _, err := io.WriteString(conn, question); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(commandLimit)); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || answer != "answer to "+question {
		return fmt.Errorf("asked %q, got %q: %w", question, answer, err)
	}
	return nil
}

// during lets a visitor come every so often while f runs.
func (v *visitors) during(f func()) {
	stop := make(chan struct{})
	v.wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				v.come([]string{serverAddress, serverAddress6}[n%2])
			}
		}
	})
	f()
	close(stop)
}

// IPv6 and IPv4, UDP, a listener with a full backlog, and descriptors that are on their way through Unix sockets: all of it moves.
func TestMigrateSockets(t *testing.T) {
	l := newLab(t)
	client := l.client()
	p := newPair(t)
	p.a.run("web", p.a.bundle("web", networked(l.server(true), "sockets.py")))
	p.a.ask("web", "work") // waits until the program answers
	questions := []*questioner{askOn(t, client, serverAddress), askOn(t, client, serverAddress6)}
	for _, q := range questions {
		q.answers(t)
	}

	// Nobody accepts: the backlog fills, and who is not in it keeps trying.
	v := &visitors{t: t, ns: client}
	for range listenerBacklog {
		v.come(serverAddress)
		v.come(serverAddress6)
	}
	eventually(t, "the backlog is full", func() bool { return v.connected.Load() >= listenerBacklog })
	there := l.server(false)
	v.during(func() { p.a.mustMigrate("web", p.b, "--bundle", p.b.bundle("web", networked(there, "sockets.py"))) })
	if served := v.served.Load(); served != 0 {
		t.Errorf("%d visitors were served by nobody", served)
	}
	p.b.ask("web", "accept")
	v.wg.Wait()
	t.Logf("full backlog: %d visitors were served", v.served.Load())
	for _, q := range questions {
		q.answers(t)
	}

	// Back again, under load.
	p.a.must("delete", "web")
	there = l.server(false)
	v.during(func() { p.b.mustMigrate("web", p.a, "--bundle", p.a.bundle("again", networked(there, "sockets.py"))) })
	v.wg.Wait()
	t.Logf("under load: %d visitors were served", v.served.Load())
	for _, q := range questions {
		q.answers(t)
		t.Logf("UDP: %d of %d questions were answered", q.answered.Load(), q.asked.Load())
	}
	p.a.goesOn("web", 2*descriptorsPassed)
}

// IPv6 streams go on as IPv4's do.
func TestMigrateIPv6Streams(t *testing.T) {
	const bytesPerSecond = 5_000_000
	l := newLab(t)
	client := l.client()
	p := newPair(t)
	p.a.run("web", p.a.bundle("web", networked(l.server(true), "stream.py")))
	p.a.ask("web", "retransmitted") // waits until the program answers
	stop := make(chan struct{})
	flows := []*flow{download(t, client, serverAddress6, bytesPerSecond), upload(t, client, serverAddress6, bytesPerSecond, stop)}
	flowsOn(t, flows, bytesPerSecond/2)
	p.a.mustMigrate("web", p.b, "--bundle", p.b.bundle("web", networked(l.server(false), "stream.py")))
	flowsOn(t, flows, bytesPerSecond/2)
	close(stop)
	if err := <-flows[1].done; err != nil {
		t.Errorf("upload: %v", err)
	}
}
