package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"
)

// pattern is a stream whose every byte says where it belongs.
type pattern struct{ offset uint64 }

func (p *pattern) at(i uint64) byte { return byte(i*2654435761>>13) ^ byte(i) }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.at(p.offset)
		p.offset++
	}
	return len(b), nil
}

// whereIs finds the place of the stream that b comes from.
func whereIs(b []byte) string {
	b = b[:min(len(b), 32)]
	p := &pattern{}
	window := make([]byte, 64<<20)
	p.Read(window)
	if i := bytes.Index(window, b); i >= 0 {
		return fmt.Sprintf("these are the bytes of %d", i)
	}
	return fmt.Sprintf("%x is of no place", b)
}

// Write reports the first wrong byte.
func (p *pattern) Write(b []byte) (int, error) {
	for i := range b {
		if b[i] != p.at(p.offset) {
			return i, fmt.Errorf("wrong byte at %d of the stream: %s", p.offset, whereIs(b[i:]))
		}
		p.offset++
	}
	return len(b), nil
}

// guest is a program inside a stack: it accepts one connection, checks the
// pattern that arrives and sends the pattern back, until stopped. Like a paused
// task it holds nothing in between that the stack does not hold.
type guest struct {
	queue    *waiter.Queue
	listener tcpip.Endpoint
	ep       tcpip.Endpoint
	in, out  pattern
	readErr  error
	ended    bool

	stop atomic.Bool
	done chan struct{}
}

func newGuest(t *testing.T, n *node, port uint16) *guest {
	t.Helper()
	return &guest{listener: listenTCP(t, n.stack.Stack, netip.AddrPortFrom(netip.IPv4Unspecified(), port))}
}

// run goes on until halt, in the way of a task that is scheduled.
func (g *guest) run() {
	g.stop.Store(false)
	g.done = make(chan struct{})
	go func() {
		defer close(g.done)
		for !g.stop.Load() {
			if !g.step() {
				time.Sleep(200 * time.Microsecond)
			}
		}
	}()
}

func (g *guest) halt() {
	g.stop.Store(true)
	<-g.done
}

// step does what can be done now; it reports whether it did anything.
func (g *guest) step() bool {
	if g.ep == nil {
		return g.accept()
	}
	received, sent := g.receive(), g.send()
	return received || sent
}

func (g *guest) accept() bool {
	ep, queue, err := g.listener.Accept(nil)
	if err == nil {
		g.ep, g.queue = ep, queue
	}
	return err == nil
}

func (g *guest) receive() bool {
	if g.ended {
		return false
	}
	switch _, err := g.ep.Read(&g.in, tcpip.ReadOptions{}); err.(type) {
	case nil:
		return true
	case *tcpip.ErrWouldBlock:
	case *tcpip.ErrClosedForReceive:
		g.ended = true
	default:
		g.readErr, g.ended = errors.New(err.String()), true
	}
	return false
}

func (g *guest) send() bool {
	chunk := make([]byte, 16<<10)
	ahead := g.out
	ahead.Read(chunk)
	n, err := g.ep.Write(bytes.NewReader(chunk), tcpip.WriteOptions{})
	g.out.offset += uint64(n)
	return err == nil
}

// guestState is what a kernel would save of the guest.
type guestState struct {
	Stack    *netstack.Stack
	Queue    *waiter.Queue
	Listener tcpip.Endpoint
	EP       tcpip.Endpoint
}

func init() { state.Register((*guestState)(nil)) }

func (*guestState) StateTypeName() string { return "sbxmigrate/sandbox/network.guestState" }
func (*guestState) StateFields() []string { return []string{"Stack", "Queue", "Listener", "EP"} }
func (s *guestState) StateSave(sink state.Sink) {
	sink.Save(0, &s.Stack)
	sink.Save(1, &s.Queue)
	sink.Save(2, &s.Listener)
	sink.Save(3, &s.EP)
}
func (s *guestState) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &s.Stack)
	source.Load(1, &s.Queue)
	source.Load(2, &s.Listener)
	source.Load(3, &s.EP)
}

// save does with the stack what the kernel's SaveTo does.
func (g *guest) save(t *testing.T, n *node) []byte {
	t.Helper()
	n.stack.SetRemoveConf(false)
	n.stack.Pause()
	defer n.stack.Resume()
	var buf bytes.Buffer
	if _, err := state.Save(context.Background(), &buf, &guestState{n.stack, g.queue, g.listener, g.ep}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// load does what the kernel's LoadFrom does: the state goes into the stack that
// was configured on the target.
func (g *guest) load(t *testing.T, n *node, data []byte) {
	t.Helper()
	var s guestState
	if _, err := state.Load(context.Background(), bytes.NewReader(data), &s); err != nil {
		t.Fatal(err)
	}
	s.Stack.ReplaceConfig(n.stack)
	s.Stack.Restore()
	n.stack, g.queue, g.listener, g.ep = s.Stack, s.Queue, s.Listener, s.EP
	if err := Unpack(s.Stack.Stack); err != nil {
		t.Fatal(err)
	}
}

// move is the stop of a migration as DESIGN.md orders it.
func move(t *testing.T, g *guest, source, target *node) {
	t.Helper()
	target.gates.Hold()
	g.halt()
	if err := Quiesce(source.stack.Stack, source.gates); err != nil {
		t.Fatal(err)
	}
	if err := target.gates.Announce(); err != nil {
		t.Fatal(err)
	}
	data := g.save(t, source)
	for _, d := range []Direction{Inbound, Outbound} {
		if err := target.gates.Inject(source.gates.Frames(d)); err != nil {
			t.Fatal(err)
		}
	}
	g.load(t, target, data)
	Rearm(target.stack.Stack, target.gates)
	g.run()
	if err := target.gates.Inject(source.gates.Frames(Inbound)); err != nil {
		t.Fatal(err)
	}
	Resume(target.stack.Stack, target.gates)
	for _, n := range []*node{source, target} {
		if s := n.gates.Stats(); s.OverflowInPackets+s.OverflowOutPackets > 0 {
			t.Errorf("a gate overflowed: %+v", s)
		}
	}
	if err := source.gates.Shut(ModeDrop); err != nil {
		t.Fatal(err)
	}
	source.gates.Discard()
}

// stream pushes the pattern through conn in both directions and checks it, until
// it has sent and received total bytes. progress counts the received ones.
func stream(conn net.Conn, total uint64, progress *atomic.Uint64) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(conn, &pattern{}, int64(total))
		sent <- err
	}()
	check := &pattern{}
	buf := make([]byte, 64<<10)
	for check.offset < total {
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if _, err := check.Write(buf[:n]); err != nil {
			return err
		}
		progress.Store(check.offset)
	}
	return <-sent
}

// TestConnectionMovesBackAndForth streams both ways between the kernel's own TCP
// and a sandbox's stack while the stack moves between two hosts.
func TestConnectionMovesBackAndForth(t *testing.T) {
	const total, moves = 48 << 20, 6
	l := newLab(t)
	client := l.host(macC, true, "192.0.2.3/24")
	hosts := []*labHost{l.host(macA, true, "192.0.2.1/24"), l.host(macB, false, "192.0.2.1/24")}
	here := l.takeOver(hosts[0])
	id := here.identity
	g := newGuest(t, here, 80)
	g.run()
	conn := l.dial(client, "192.0.2.1:80")
	var progress atomic.Uint64
	result := make(chan error, 1)
	go func() { result <- stream(conn, total, &progress) }()
	for i := range uint64(moves) {
		for progress.Load() < (i+1)*total/(moves+2) {
			select {
			case err := <-result:
				t.Fatalf("after %d moves: %v", i, err)
			case <-time.After(time.Millisecond):
			}
		}
		next := l.run(hosts[(i+1)%2], id, Options{Silent: true})
		move(t, g, here, next)
		here.leave()
		here = next
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	g.halt()
	// The last bytes may still be on their way inside.
	for deadline := time.Now().Add(20 * time.Second); g.in.offset < total && !g.ended && time.Now().Before(deadline); {
		if !g.receive() {
			time.Sleep(time.Millisecond)
		}
	}
	if g.readErr != nil || g.in.offset < total {
		t.Errorf("inside: %d bytes of %d, %v", g.in.offset, total, g.readErr)
	}
	// A time-out would show as a stall of 200 ms and more, with a timeout counted.
	if n := here.stack.Stack.Stats().TCP.Timeouts.Value(); n != 0 {
		t.Errorf("%d retransmission time-outs on the sandbox's side", n)
	}
}

// TestRollbackAfterTheGateShut saves, refuses and opens the source again.
func TestRollbackAfterTheGateShut(t *testing.T) {
	const total = 16 << 20
	l := newLab(t)
	client := l.host(macC, true, "192.0.2.3/24")
	here := l.takeOver(l.host(macA, true, "192.0.2.1/24"))
	target := l.run(l.host(macB, false, "192.0.2.1/24"), here.identity, Options{Silent: true})
	target.gates.Hold()
	g := newGuest(t, here, 80)
	g.run()
	conn := l.dial(client, "192.0.2.1:80")
	var progress atomic.Uint64
	result := make(chan error, 1)
	go func() { result <- stream(conn, total, &progress) }()
	for i := range uint64(3) {
		for progress.Load() < (i+1)*total/5 {
			time.Sleep(time.Millisecond)
		}
		g.halt()
		if err := Quiesce(here.stack.Stack, here.gates); err != nil {
			t.Fatal(err)
		}
		if err := target.gates.Announce(); err != nil {
			t.Fatal(err)
		}
		g.save(t, here)
		if err := target.gates.Inject(here.gates.Frames(Inbound)); err != nil {
			t.Fatal(err)
		}
		// Refused: what reached the target comes back, and the source says where it is.
		if err := here.gates.Announce(); err != nil {
			t.Fatal(err)
		}
		if err := here.gates.Inject(target.gates.Frames(Inbound)); err != nil {
			t.Fatal(err)
		}
		target.gates.Discard()
		g.run()
		Resume(here.stack.Stack, here.gates)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	g.halt()
}

// TestLostTailIsSentAgain loses what the guest had sent when it was saved, and
// the guest has nothing more to send: only a timer can save the connection.
func TestLostTailIsSentAgain(t *testing.T) {
	l := newLab(t)
	client := l.host(macC, true, "192.0.2.3/24")
	source := l.takeOver(l.host(macA, true, "192.0.2.1/24"))
	target := l.run(l.host(macB, false, "192.0.2.1/24"), source.identity, Options{Silent: true})
	target.gates.Hold()
	g := newGuest(t, source, 80)
	conn := l.dial(client, "192.0.2.1:80")
	for g.ep == nil {
		g.accept()
	}
	source.gates.Hold()
	if !g.send() {
		t.Fatal("the guest could not send")
	}
	if err := Quiesce(source.stack.Stack, source.gates); err != nil {
		t.Fatal(err)
	}
	data := g.save(t, source)
	source.gates.Discard()
	if err := target.gates.Announce(); err != nil {
		t.Fatal(err)
	}
	g.load(t, target, data)
	if n := Rearm(target.stack.Stack, target.gates); n != 1 {
		t.Errorf("rearmed %d connections, want 1", n)
	}
	Resume(target.stack.Stack, target.gates)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(&pattern{}, conn, int64(g.out.offset)); err != nil {
		t.Fatal(err)
	}
}

// TestHostSegmentationWithoutTheHost keeps a sandbox's segmentation mode on an
// interface that has it off.
func TestHostSegmentationWithoutTheHost(t *testing.T) {
	const total = 8 << 20
	l := newLab(t)
	client := l.host(macC, true, "192.0.2.3/24")
	h := l.host(macA, true, "192.0.2.1/24")
	id, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	if id.Links[0].GSOMaxSizeBytes == 0 {
		t.Fatal("a veth pair without segmentation offload")
	}
	l.in(h.ns, func() error { return disableSegmentation("eth0") })
	if link := probeLink(t, h.ns); link.GSOMaxSizeBytes != 0 {
		t.Fatal("segmentation offload is still on")
	}
	n := l.run(h, id, Options{})
	g := newGuest(t, n, 80)
	g.run()
	var progress atomic.Uint64
	if err := stream(l.dial(client, "192.0.2.1:80"), total, &progress); err != nil {
		t.Fatal(err)
	}
	g.halt()
}

// TestResetReachesThePeer restores under another address and tells the peer.
func TestResetReachesThePeer(t *testing.T) {
	l := newLab(t)
	client := l.host(macC, true, "192.0.2.3/24")
	source := l.takeOver(l.host(macA, true, "192.0.2.1/24"))
	g := newGuest(t, source, 80)
	conn := l.dial(client, "192.0.2.1:80")
	for g.ep == nil {
		g.accept()
	}
	g.send()
	if _, err := io.ReadFull(conn, make([]byte, g.out.offset)); err != nil {
		t.Fatal(err)
	}
	if err := source.gates.Shut(ModeDrop); err != nil {
		t.Fatal(err)
	}
	saved := Connections(source.stack.Stack)
	target := l.takeOver(l.host(macB, true, "192.0.2.9/24"))
	fates := Survival(saved, target.identity)
	sent, err := SendResets(context.Background(), target.stack.Stack, fates)
	if err != nil || sent != 1 {
		t.Fatalf("sent %d resets: %v; fates %+v", sent, err, fates)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, conn)
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer sees %v, want a reset", err)
	}
}

// TestIPv6Connection streams over IPv6 right after the start: netstack must not
// first doubt an address that it was given.
func TestIPv6Connection(t *testing.T) {
	const total = 4 << 20
	l := newLab(t)
	client := l.host(macC, true, "2001:db8::3/64")
	n := l.takeOver(l.host(macA, true, "2001:db8::1/64"))
	var queue waiter.Queue
	ep, terr := n.stack.Stack.NewEndpoint(header.TCPProtocolNumber, header.IPv6ProtocolNumber, &queue)
	if terr != nil {
		t.Fatal(terr)
	}
	if terr := ep.Bind(tcpip.FullAddress{Port: 80}); terr != nil {
		t.Fatal(terr)
	}
	if terr := ep.Listen(1); terr != nil {
		t.Fatal(terr)
	}
	g := &guest{listener: ep}
	g.run()
	var progress atomic.Uint64
	if err := stream(l.dial(client, "[2001:db8::1]:80"), total, &progress); err != nil {
		t.Fatal(err)
	}
	g.halt()
}
