package network

import (
	"net/netip"
	"reflect"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// controlBlock is what a segment needs to know of a TCP connection.
type controlBlock struct {
	sendUnacknowledged, sendNext, receiveNext uint32

	// sendWindow is the peer's window as it stands in a segment's header.
	sendWindow uint16

	timestamps      bool
	recentTimestamp uint32
}

// readControlBlock reads a connection's numbers. Netstack exposes them to a probe
// on every segment only, which is too dear, so they are read from the fields; a
// gVisor without them gives zeroes, and tests fail.
func readControlBlock(e *tcp.Endpoint) controlBlock {
	e.LockUser()
	defer e.UnlockUser()
	v := reflect.ValueOf(e).Elem()
	return controlBlock{
		sendUnacknowledged: uint32(uintField(v, "snd", "SndUna")),
		sendNext:           uint32(uintField(v, "snd", "SndNxt")),
		receiveNext:        uint32(uintField(v, "rcv", "RcvNxt")),
		sendWindow:         uint16(uintField(v, "snd", "SndWnd") >> uintField(v, "snd", "SndWndScale")),
		timestamps:         e.SendTSOk,
		recentTimestamp:    e.RecentTS,
	}
}

// uintField reads a number from the sending or receiving half of an endpoint; it
// is zero in a connection that has no such half yet.
func uintField(endpoint reflect.Value, half, name string) uint64 {
	p := endpoint.FieldByName(half)
	if !p.IsValid() || p.Kind() != reflect.Pointer || p.IsNil() {
		return 0
	}
	f := p.Elem().FieldByName(name)
	if !f.IsValid() || !f.CanUint() {
		return 0
	}
	return f.Uint()
}

// tcpPacket is an IP packet with one TCP segment without data. options must be
// padded to four bytes.
func tcpPacket(from, to netip.AddrPort, fields header.TCPFields, options []byte) []byte {
	src, dst := tcpipAddr(from.Addr()), tcpipAddr(to.Addr())
	networkBytes := header.IPv6MinimumSize
	if from.Addr().Is4() {
		networkBytes = header.IPv4MinimumSize
	}
	segmentBytes := header.TCPMinimumSize + len(options)
	packet := make([]byte, networkBytes+segmentBytes)
	segment := header.TCP(packet[networkBytes:])
	fields.SrcPort, fields.DstPort, fields.DataOffset = from.Port(), to.Port(), uint8(segmentBytes)
	segment.Encode(&fields)
	copy(segment[header.TCPMinimumSize:], options)
	pseudo := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(segmentBytes))
	segment.SetChecksum(^checksum.Checksum(segment, pseudo))
	if networkBytes == header.IPv6MinimumSize {
		header.IPv6(packet).Encode(&header.IPv6Fields{
			PayloadLength: uint16(segmentBytes), TransportProtocol: header.TCPProtocolNumber,
			HopLimit: 64, SrcAddr: src, DstAddr: dst,
		})
		return packet
	}
	ip := header.IPv4(packet)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(packet)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return packet
}
