package network

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// heldPacket is one frame that a gate keeps. The gate owns one reference.
type heldPacket struct {
	proto tcpip.NetworkProtocolNumber
	pkt   *stack.PacketBuffer
}

// queue is a list of held frames, oldest first. Gate.queueMu guards it.
type queue struct {
	packets []heldPacket
	bytes   int

	// copied is how many of packets Frames has given out already.
	copied int
}

// add takes over the caller's reference; it reports whether the frame fitted.
func (q *queue) add(p heldPacket, l Limits) bool {
	size := p.pkt.MemSize()
	if len(q.packets) >= l.Packets || q.bytes+size > l.Bytes {
		p.pkt.DecRef()
		return false
	}
	q.packets = append(q.packets, p)
	q.bytes += size
	return true
}

// take empties the queue; the caller owns the references.
func (q *queue) take() []heldPacket {
	packets := q.packets
	*q = queue{}
	return packets
}

func releaseAll(packets []heldPacket) {
	for _, p := range packets {
		p.pkt.DecRef()
	}
}

// hold keeps an inbound frame. A link endpoint neither changes nor reuses a
// frame that it has delivered, so a reference is enough.
func (g *Gate) hold(q *queue, proto tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	if !q.add(heldPacket{proto, pkt.IncRef()}, g.limits) {
		g.stats.OverflowInPackets++
	}
}

func (g *Gate) discardIn() {
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	g.stats.DiscardedInPackets++
}

// holdOut keeps or discards what the stack sends through a shut gate. The caller
// holds outMu for reading.
func (g *Gate) holdOut(pkt *stack.PacketBuffer) {
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	if g.mode == ModeDrop || g.sealed {
		g.stats.DiscardedOutPackets++
		return
	}
	if !g.out.add(heldPacket{pkt.NetworkProtocolNumber, pkt.IncRef()}, g.limits) {
		g.stats.OverflowOutPackets++
	}
}

// deliverHeld gives the stack what is held for it, forwarded frames first. The
// caller holds inMu for writing.
func (g *Gate) deliverHeld() int {
	g.queueMu.Lock()
	packets := append(g.forwarded.take(), g.in.take()...)
	g.stats.DeliveredPackets += uint64(len(packets))
	g.queueMu.Unlock()
	for _, p := range packets {
		g.Endpoint.DeliverNetworkPacket(p.proto, p.pkt)
	}
	releaseAll(packets)
	return len(packets)
}

// sendHeld puts what the stack sent onto the wire. The caller holds controlMu,
// and the gate is not open, so that nothing newer passes meanwhile.
func (g *Gate) sendHeld() int {
	g.queueMu.Lock()
	packets := g.out.take()
	g.stats.SentPackets += uint64(len(packets))
	g.queueMu.Unlock()
	for _, p := range packets {
		var one stack.PacketBufferList
		one.PushBack(p.pkt)
		// A full transmit queue drops, as it does for an open gate; one packet at a
		// time, so that it costs only that packet.
		_, _ = g.Endpoint.WritePackets(one)
	}
	releaseAll(packets)
	return len(packets)
}

// seal marks the moment at which the stack was saved.
func (g *Gate) seal() {
	g.inMu.RLock()
	defer g.inMu.RUnlock()
	g.queueMu.Lock()
	defer g.queueMu.Unlock()
	g.sealed = g.mode != ModeOpen
}
