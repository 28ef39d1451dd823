package network

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Mode is what a gate does with frames.
type Mode int32

const (
	// ModeOpen lets everything pass.
	ModeOpen Mode = iota

	// ModeDrop discards everything, in both directions.
	ModeDrop

	// ModeHold keeps what comes, in both directions, up to the gate's limits.
	ModeHold
)

// String names the mode as reports do.
func (m Mode) String() string {
	switch m {
	case ModeOpen:
		return "open"
	case ModeDrop:
		return "drop"
	case ModeHold:
		return "hold"
	}
	return fmt.Sprintf("mode(%d)", int32(m))
}

// Limits bounds what a gate holds in each direction. A frame that does not fit
// is dropped and counted.
type Limits struct {
	// Packets is the number of frames; zero means 16384.
	Packets int

	// Bytes is the memory of the frames; zero means 32 MiB.
	Bytes int
}

const (
	defaultHoldPackets = 16 << 10
	defaultHoldBytes   = 32 << 20
)

func (l Limits) withDefaults() Limits {
	if l.Packets == 0 {
		l.Packets = defaultHoldPackets
	}
	if l.Bytes == 0 {
		l.Bytes = defaultHoldBytes
	}
	return l
}

// Stats counts what a gate did since it was made.
type Stats struct {
	// DeliveredPackets and SentPackets were held and passed by Open.
	DeliveredPackets, SentPackets uint64

	// OverflowInPackets and OverflowOutPackets did not fit the limits.
	OverflowInPackets, OverflowOutPackets uint64

	// DiscardedInPackets and DiscardedOutPackets met a gate in ModeDrop, or were
	// sent by a stack that had been saved already.
	DiscardedInPackets, DiscardedOutPackets uint64

	// HeldPackets and HeldBytes are held now, both directions together.
	HeldPackets, HeldBytes int
}

// Gate is the valve of one interface. It sits between netstack's interface and
// the real link endpoint. A new gate is open. All methods may be called at any
// time, by any number of goroutines.
type Gate struct {
	nested.Endpoint

	// Immutable.
	name      string
	nic       tcpip.NICID
	mac       tcpip.LinkAddress
	mtuBytes  uint32
	addresses []netip.Prefix

	// controlMu serialises the operations that change or empty the gate.
	controlMu sync.Mutex

	// inMu and outMu are held for reading while a frame passes in that direction,
	// and both for writing while mode changes. So a shut gate has nothing in flight.
	inMu, outMu sync.RWMutex
	mode        Mode

	queueMu sync.Mutex
	limits  Limits
	in, out queue

	// forwarded came by Inject, from a gate that saw it earlier than what is in
	// this gate's own queue. It is never given out by Frames.
	forwarded queue

	// sealed says that the stack was saved after the gate shut: what it sends now
	// is no part of the saved sandbox.
	sealed bool
	stats  Stats
}

var (
	_ stack.LinkEndpoint      = (*Gate)(nil)
	_ stack.NetworkDispatcher = (*Gate)(nil)
)

func newGate(l *Link, lower stack.LinkEndpoint) *Gate {
	g := &Gate{
		name:      l.Name,
		nic:       tcpip.NICID(l.NIC),
		mac:       lower.LinkAddress(),
		mtuBytes:  lower.MTU(),
		addresses: slices.Clone(l.Addresses),
		limits:    Limits{}.withDefaults(),
	}
	g.Endpoint.Init(lower, g)
	return g
}

// Name is the interface's name.
func (g *Gate) Name() string { return g.name }

// SetLimits replaces the bounds of what the gate holds. It drops nothing that is
// held already.
func (g *Gate) SetLimits(l Limits) {
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	g.limits = l.withDefaults()
}

// Mode is the gate's present mode.
func (g *Gate) Mode() Mode {
	g.inMu.RLock()
	defer g.inMu.RUnlock()
	return g.mode
}

// Shut closes the gate: m is ModeDrop or ModeHold. When it returns, no frame is
// on its way through the gate. Frames held earlier stay held.
func (g *Gate) Shut(m Mode) error {
	if m != ModeDrop && m != ModeHold {
		return fmt.Errorf("shut network gate %q: mode %v", g.name, m)
	}
	g.controlMu.Lock()
	defer g.controlMu.Unlock()
	g.inMu.Lock()
	defer g.inMu.Unlock()
	g.outMu.Lock()
	defer g.outMu.Unlock()
	g.mode = m
	return nil
}

// Hold shuts the gate and keeps what comes.
func (g *Gate) Hold() { _ = g.Shut(ModeHold) } // ModeHold is never refused

// Open passes what is held, oldest first, and then opens the gate: no later
// frame overtakes a held one. It returns how many frames it passed. Opening an
// open gate does nothing.
func (g *Gate) Open() int {
	g.controlMu.Lock()
	defer g.controlMu.Unlock()
	if g.Mode() == ModeOpen {
		return 0
	}
	// What the stack sent came before what it is about to receive.
	n := g.sendHeld()
	// Later arrivals wait at inMu until the held ones are through. Replies that the
	// deliveries cause are held behind outMu's back and follow.
	g.inMu.Lock()
	defer g.inMu.Unlock()
	n += g.deliverHeld()
	g.outMu.Lock()
	defer g.outMu.Unlock()
	n += g.sendHeld()
	g.queueMu.Lock()
	g.sealed = false
	g.queueMu.Unlock()
	g.mode = ModeOpen
	return n
}

// Discard forgets what is held and leaves the gate as it is.
func (g *Gate) Discard() {
	g.controlMu.Lock()
	defer g.controlMu.Unlock()
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	for _, q := range []*queue{&g.forwarded, &g.in, &g.out} {
		releaseAll(q.take())
	}
}

// Stats returns the gate's counters.
func (g *Gate) Stats() Stats {
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	s := g.stats
	for _, q := range []*queue{&g.forwarded, &g.in, &g.out} {
		s.HeldPackets += len(q.packets)
		s.HeldBytes += q.bytes
	}
	return s
}

// DeliverNetworkPacket implements stack.NetworkDispatcher: a frame came from the
// wire.
func (g *Gate) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	g.inMu.RLock()
	defer g.inMu.RUnlock()
	switch g.mode {
	case ModeOpen:
		g.Endpoint.DeliverNetworkPacket(proto, pkt)
	case ModeHold:
		g.hold(&g.in, proto, pkt)
	default:
		g.discardIn()
	}
}

// DeliverLinkPacket implements stack.NetworkDispatcher. No link endpoint below a
// gate taps frames; one that did would not get past a shut gate.
func (g *Gate) DeliverLinkPacket(proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	g.inMu.RLock()
	defer g.inMu.RUnlock()
	if g.mode == ModeOpen {
		g.Endpoint.DeliverLinkPacket(proto, pkt)
	}
}

// WritePackets implements stack.LinkEndpoint: the stack sends. A shut gate
// accepts everything, or the stack would report errors to the guest.
func (g *Gate) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	g.outMu.RLock()
	defer g.outMu.RUnlock()
	if g.mode == ModeOpen {
		return g.Endpoint.WritePackets(pkts)
	}
	for _, pkt := range pkts.AsSlice() {
		g.holdOut(pkt)
	}
	return pkts.Len(), nil
}
