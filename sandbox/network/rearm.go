package network

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Rearm starts the timers of the established connections of a stack that was
// just loaded. Netstack restores a connection without them and starts them on
// the next segment in either direction; if the last one on its way was lost,
// there is no next one, and both sides wait for ever. So each connection gets
// the acknowledgement that it got last once more, as if the peer had repeated
// it: the connection sends what it may and starts its retransmission, window
// probe or keepalive timer. It returns how many were treated.
//
// Rearm is called after the load, and before or after Resume.
func Rearm(s *stack.Stack, gates *Gates) int {
	n := 0
	seen := map[*tcp.Endpoint]bool{}
	for _, ep := range s.RegisteredEndpoints() {
		e, ok := ep.(*tcp.Endpoint)
		if !ok || seen[e] || !rearmable(e.EndpointState()) {
			continue
		}
		seen[e] = true
		if repeatAcknowledgement(e, gates) {
			n++
		}
	}
	return n
}

// rearmable says whether the connection can have something to wait for.
func rearmable(state tcp.EndpointState) bool {
	switch state {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateLastAck, tcp.StateClosing:
		return true
	}
	return false
}

// repeatAcknowledgement hands the stack a segment of the peer, past the gate. It
// reports false for a connection inside the sandbox, which loses nothing.
func repeatAcknowledgement(e *tcp.Endpoint, gates *Gates) bool {
	info, ok := e.Info().(*stack.TransportEndpointInfo)
	if !ok {
		return false
	}
	local := netip.AddrPortFrom(netipAddr(info.ID.LocalAddress), info.ID.LocalPort)
	remote := netip.AddrPortFrom(netipAddr(info.ID.RemoteAddress), info.ID.RemotePort)
	gate := gates.withAddress(local.Addr())
	if gate == nil || gates.withAddress(remote.Addr()) != nil {
		return false
	}
	state := readControlBlock(e)
	var options []byte
	if state.timestamps {
		options = make([]byte, 2+header.TCPOptionTSLength)
		header.EncodeNOP(options)
		header.EncodeNOP(options[1:])
		header.EncodeTSOption(state.recentTimestamp, 0, options[2:])
	}
	gate.receive(protocolOf(local.Addr()), tcpPacket(remote, local, header.TCPFields{
		SeqNum: state.receiveNext, AckNum: state.sendUnacknowledged,
		Flags: header.TCPFlagAck, WindowSize: state.sendWindow,
	}, options))
	return true
}

// withAddress returns the gate of the interface that has the address, or nil.
func (gs *Gates) withAddress(a netip.Addr) *Gate {
	for _, g := range gs.list {
		if slices.ContainsFunc(g.addresses, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return g
		}
	}
	return nil
}

// receive gives the stack an IP packet as if it had come from the wire, whatever
// the gate's mode.
func (g *Gate) receive(proto tcpip.NetworkProtocolNumber, packet []byte) {
	linkBytes := 0
	if g.mac != "" {
		linkBytes = header.EthernetMinimumSize
	}
	frame := make([]byte, linkBytes, linkBytes+len(packet))
	if linkBytes > 0 {
		header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: g.mac, DstAddr: g.mac, Type: proto})
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append(frame, packet...))})
	defer pkt.DecRef()
	pkt.LinkHeader().Consume(linkBytes)
	pkt.NetworkProtocolNumber = proto
	g.Endpoint.DeliverNetworkPacket(proto, pkt)
}
