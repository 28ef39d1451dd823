package network

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	testMAC     = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01")
	testPeerMAC = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
)

// recorder is the stack above a gate: it notes the numbers of delivered frames.
type recorder struct {
	mu   sync.Mutex
	seen []uint32

	// reply, if set, is called for each frame, as netstack answers a ping.
	reply func()
}

func (r *recorder) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	n := binary.BigEndian.Uint32(pkt.Data().AsRange().ToSlice())
	r.mu.Lock()
	r.seen = append(r.seen, n)
	r.mu.Unlock()
	if r.reply != nil {
		r.reply()
	}
}

func (r *recorder) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

func (r *recorder) numbers() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]uint32(nil), r.seen...)
}

func newTestGate(t *testing.T, queuePackets int) (*Gate, *channel.Endpoint, *recorder) {
	t.Helper()
	lower := channel.New(queuePackets, 1500, testMAC)
	g := newGate(&Link{Name: "eth0", NIC: 2, MTUBytes: 1500, MAC: "02:00:00:00:00:01",
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}, lower)
	r := &recorder{}
	g.Attach(r)
	return g, lower, r
}

// numbered is a frame as fdbased delivers it: link header consumed.
func numbered(n uint32) *stack.PacketBuffer {
	frame := make([]byte, header.EthernetMinimumSize+4)
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: testPeerMAC, DstAddr: testMAC, Type: header.IPv4ProtocolNumber})
	binary.BigEndian.PutUint32(frame[header.EthernetMinimumSize:], n)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	pkt.RXChecksumValidated = true
	return pkt
}

func deliver(g *Gate, n uint32) {
	pkt := numbered(n)
	g.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
	pkt.DecRef()
}

// send is what the stack does with a frame of its own.
func send(g *Gate, n uint32) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.EthernetMinimumSize,
		Payload:            buffer.MakeWithData(binary.BigEndian.AppendUint32(nil, n)),
	})
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(
		&header.EthernetFields{SrcAddr: testMAC, DstAddr: testPeerMAC, Type: header.IPv4ProtocolNumber})
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	var list stack.PacketBufferList
	list.PushBack(pkt)
	g.WritePackets(list)
	list.Reset()
}

// sent reads the numbers of the frames that reached the wire.
func sent(lower *channel.Endpoint) []uint32 {
	var out []uint32
	for pkt := lower.Read(); pkt != nil; pkt = lower.Read() {
		b := pkt.ToView().AsSlice()
		out = append(out, binary.BigEndian.Uint32(b[header.EthernetMinimumSize:]))
		pkt.DecRef()
	}
	return out
}

func wantNumbers(t *testing.T, what string, got []uint32, want ...uint32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: got %v, want %v", what, got, want)
		}
	}
}

func TestGateHoldsBothDirectionsInOrder(t *testing.T) {
	g, lower, r := newTestGate(t, 16)
	deliver(g, 1)
	send(g, 101)
	g.Hold()
	deliver(g, 2)
	deliver(g, 3)
	send(g, 102)
	wantNumbers(t, "delivered while held", r.numbers(), 1)
	wantNumbers(t, "sent while held", sent(lower), 101)
	if s := g.Stats(); s.HeldPackets != 3 {
		t.Errorf("held %d packets, want 3", s.HeldPackets)
	}
	if n := g.Open(); n != 3 {
		t.Errorf("Open passed %d frames, want 3", n)
	}
	deliver(g, 4)
	wantNumbers(t, "delivered", r.numbers(), 1, 2, 3, 4)
	wantNumbers(t, "sent", sent(lower), 102)
	if s := g.Stats(); s.HeldPackets != 0 || s.HeldBytes != 0 || s.DeliveredPackets != 2 || s.SentPackets != 1 {
		t.Errorf("stats after open: %+v", s)
	}
}

func TestGateDropsAndCounts(t *testing.T) {
	g, lower, r := newTestGate(t, 16)
	if err := g.Shut(ModeDrop); err != nil {
		t.Fatal(err)
	}
	deliver(g, 1)
	send(g, 101)
	g.Open()
	wantNumbers(t, "delivered", r.numbers())
	wantNumbers(t, "sent", sent(lower))
	if s := g.Stats(); s.DiscardedInPackets != 1 || s.DiscardedOutPackets != 1 {
		t.Errorf("stats: %+v", s)
	}
	if err := g.Shut(ModeOpen); err == nil {
		t.Error("Shut(ModeOpen) succeeded")
	}
}

func TestGateBounds(t *testing.T) {
	for name, limits := range map[string]Limits{
		"packets": {Packets: 2},
		"bytes":   {Bytes: 2 * numbered(0).MemSize()},
	} {
		t.Run(name, func(t *testing.T) {
			g, _, r := newTestGate(t, 16)
			g.SetLimits(limits)
			g.Hold()
			for n := range uint32(5) {
				deliver(g, n)
			}
			if s := g.Stats(); s.OverflowInPackets != 3 || s.HeldPackets != 2 {
				t.Errorf("stats: %+v", s)
			}
			g.Open()
			wantNumbers(t, "delivered", r.numbers(), 0, 1)
		})
	}
}

func TestGateRepliesOfHeldFramesFollow(t *testing.T) {
	g, lower, r := newTestGate(t, 16)
	next := uint32(200)
	r.reply = func() { send(g, next); next++ }
	g.Hold()
	send(g, 100)
	deliver(g, 1)
	deliver(g, 2)
	g.Open()
	wantNumbers(t, "sent", sent(lower), 100, 200, 201)
}

// TestGateOrderUnderConcurrency opens and shuts a gate while frames pour in both
// ways, each sender standing for one flow: nothing is lost, nothing overtakes.
func TestGateOrderUnderConcurrency(t *testing.T) {
	const flows, perFlow = 4, 3000
	g, lower, r := newTestGate(t, 2*flows*perFlow)
	var senders, toggler sync.WaitGroup
	stop := make(chan struct{})
	toggler.Add(1)
	go func() {
		defer toggler.Done()
		for {
			select {
			case <-stop:
				return
			default:
				g.Hold()
				g.Open()
			}
		}
	}()
	for f := range uint32(flows) {
		senders.Add(2)
		go func() {
			defer senders.Done()
			for i := range uint32(perFlow) {
				deliver(g, f<<24|i)
			}
		}()
		go func() {
			defer senders.Done()
			for i := range uint32(perFlow) {
				send(g, f<<24|i)
			}
		}()
	}
	senders.Wait()
	close(stop)
	toggler.Wait()
	g.Open()
	for what, got := range map[string][]uint32{"delivered": r.numbers(), "sent": sent(lower)} {
		if len(got) != flows*perFlow {
			t.Errorf("%s %d frames, want %d; stats %+v", what, len(got), flows*perFlow, g.Stats())
		}
		var next [flows]uint32
		for _, n := range got {
			if f, i := n>>24, n&0xffffff; i != next[f] {
				t.Fatalf("%s: flow %d got frame %d, want %d", what, f, i, next[f])
			} else {
				next[f]++
			}
		}
	}
}

func TestFramesMoveToAnotherGate(t *testing.T) {
	source, _, _ := newTestGate(t, 16)
	source.Hold()
	deliver(source, 1)
	send(source, 101)
	in, out := source.Frames(Inbound), source.Frames(Outbound)
	deliver(source, 2)
	late := source.Frames(Inbound)
	if len(in) != 1 || len(out) != 1 || len(late) != 1 || len(source.Frames(Inbound)) != 0 {
		t.Fatalf("frames: %d in, %d out, %d late", len(in), len(out), len(late))
	}
	if !in[0].ChecksumValid {
		t.Error("checksum state of an inbound frame was lost")
	}

	target, lower, r := newTestGate(t, 16)
	target.Hold()
	deliver(target, 3) // arrived here before the source's frames came over
	for _, frames := range [][]Frame{in, out, late} {
		if err := target.Inject(frames); err != nil {
			t.Fatal(err)
		}
	}
	if back := target.Frames(Inbound); len(back) != 1 {
		t.Errorf("the target hands back %d frames, want only its own", len(back))
	}
	target.Open()
	wantNumbers(t, "delivered", r.numbers(), 1, 2, 3)
	wantNumbers(t, "sent", sent(lower), 101)
}

func TestFramesStayForRollback(t *testing.T) {
	g, lower, r := newTestGate(t, 16)
	g.Hold()
	deliver(g, 1)
	send(g, 101)
	g.Frames(Inbound)
	g.Frames(Outbound)
	// The target gives back what reached it meanwhile.
	other, _, _ := newTestGate(t, 1)
	other.Hold()
	deliver(other, 2)
	if err := g.Inject(other.Frames(Inbound)); err != nil {
		t.Fatal(err)
	}
	g.Open()
	wantNumbers(t, "sent", sent(lower), 101)
	got := r.numbers()
	if len(got) != 2 {
		t.Fatalf("delivered %v, want both frames", got)
	}
}

func TestInjectIntoOpenGatePasses(t *testing.T) {
	source, _, _ := newTestGate(t, 1)
	source.Hold()
	deliver(source, 7)
	g, _, r := newTestGate(t, 1)
	if err := g.Inject(source.Frames(Inbound)); err != nil {
		t.Fatal(err)
	}
	wantNumbers(t, "delivered", r.numbers(), 7)
}

func TestInjectRefusesBrokenFrames(t *testing.T) {
	g, _, _ := newTestGate(t, 1)
	g.Hold()
	good := make([]byte, 60)
	for name, f := range map[string]Frame{
		"other interface":      {NIC: 3, Data: good},
		"no payload":           {NIC: 2, Data: good[:14]},
		"too long":             {NIC: 2, Data: make([]byte, maxFrameBytes+1)},
		"header beyond frame":  {NIC: 2, Direction: Outbound, Data: good, Segmentation: Segmentation{Type: uint8(stack.GSOTCPv4), HeaderBytes: 61, MSSBytes: 1}},
		"segments of no bytes": {NIC: 2, Direction: Outbound, Data: good, Segmentation: Segmentation{Type: uint8(stack.GSOTCPv4), HeaderBytes: 54}},
		"unknown segmentation": {NIC: 2, Direction: Outbound, Data: good, Segmentation: Segmentation{Type: 99, HeaderBytes: 54, MSSBytes: 1}},
	} {
		if err := g.Inject([]Frame{f}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if s := g.Stats(); s.HeldPackets != 0 {
		t.Errorf("held %d packets of refused frames", s.HeldPackets)
	}
}

func TestSegmentationSurvivesTheMove(t *testing.T) {
	g, _, _ := newTestGate(t, 4)
	g.Hold()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 54, Payload: buffer.MakeWithData(make([]byte, 3000))})
	copy(pkt.LinkHeader().Push(54), bytes.Repeat([]byte{9}, 54))
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1448, L3HdrLen: 20, MaxSize: 65536}
	var list stack.PacketBufferList
	list.PushBack(pkt)
	g.WritePackets(list)
	frames := g.Frames(Outbound)
	if len(frames) != 1 {
		t.Fatalf("%d frames", len(frames))
	}
	got, err := g.packet(&frames[0])
	if err != nil {
		t.Fatal(err)
	}
	defer got.pkt.DecRef()
	if got.pkt.GSOOptions != pkt.GSOOptions {
		t.Errorf("segmentation %+v, want %+v", got.pkt.GSOOptions, pkt.GSOOptions)
	}
	if got.pkt.HeaderSize() != 54 || got.pkt.Data().Size() != 3000 {
		t.Errorf("header %d, data %d bytes", got.pkt.HeaderSize(), got.pkt.Data().Size())
	}
}

func TestSealedGateForgetsWhatIsSentLater(t *testing.T) {
	g, lower, _ := newTestGate(t, 4)
	g.Hold()
	send(g, 1)
	g.seal()
	send(g, 2)
	g.Open()
	send(g, 3)
	wantNumbers(t, "sent", sent(lower), 1, 3)
}

// FuzzInject feeds a gate frames as another process sends them.
func FuzzInject(f *testing.F) {
	f.Add(make([]byte, 60), uint8(0), uint8(0), uint16(0), uint16(0))
	f.Add(make([]byte, 3000), uint8(1), uint8(stack.GSOTCPv4), uint16(54), uint16(1448))
	f.Fuzz(func(t *testing.T, data []byte, direction, kind uint8, headerBytes, mss uint16) {
		lower := channel.New(4, 1500, testMAC)
		g := newGate(&Link{Name: "eth0", NIC: 2, MTUBytes: 1500}, lower)
		frame := Frame{NIC: 2, Direction: Direction(direction % 2), Data: data,
			Segmentation: Segmentation{Type: kind, HeaderBytes: headerBytes, MSSBytes: mss}}
		g.Hold()
		if g.Inject([]Frame{frame}) != nil {
			return
		}
		g.Open()
		if pkt := lower.Read(); pkt != nil {
			if got := pkt.ToView().AsSlice(); !bytes.Equal(got, data) {
				t.Errorf("sent %x, want %x", got, data)
			}
			pkt.DecRef()
		}
	})
}
