package network

import (
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Announce tells the link where the sandbox's addresses are now: a gratuitous
// ARP for each IPv4 address, an unsolicited neighbour advertisement for each
// IPv6 address. Switches move the hardware address to this port, neighbours
// replace a stale one. The frames go past the gate, open or shut, and past the
// stack's counters. An interface without a hardware address has nothing to say.
func (g *Gate) Announce() error {
	if g.mac == "" {
		return nil
	}
	var errs []error
	for _, f := range announcements(g.mac, g.addresses) {
		if err := g.writeRaw(f); err != nil {
			errs = append(errs, fmt.Errorf("announce on %q: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

// writeRaw puts one finished frame onto the wire.
func (g *Gate) writeRaw(frame []byte) error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	var one stack.PacketBufferList
	one.PushBack(pkt)
	if _, err := g.Endpoint.WritePackets(one); err != nil {
		return errors.New(err.String())
	}
	return nil
}

// announcements builds the frames. Without any address the hardware address
// alone is announced, which is all that a switch needs.
func announcements(mac tcpip.LinkAddress, addrs []netip.Prefix) [][]byte {
	if len(addrs) == 0 {
		return [][]byte{arpFrame(mac, header.ARPRequest, netip.IPv4Unspecified())}
	}
	var frames [][]byte
	for _, p := range addrs {
		if a := p.Addr(); a.Is4() {
			// RFC 5227 announces with a request. Some stacks update an existing entry
			// only on a reply, so they get one too.
			frames = append(frames, arpFrame(mac, header.ARPRequest, a), arpFrame(mac, header.ARPReply, a))
		} else {
			frames = append(frames, advertisementFrame(mac, a))
		}
	}
	return frames
}

// arpFrame is a broadcast ARP whose sender and target are both addr.
func arpFrame(mac tcpip.LinkAddress, op header.ARPOp, addr netip.Addr) []byte {
	f := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(f).Encode(&header.EthernetFields{
		SrcAddr: mac, DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber,
	})
	arp := header.ARP(f[header.EthernetMinimumSize:])
	arp.SetIPv4OverEthernet()
	arp.SetOp(op)
	copy(arp.HardwareAddressSender(), mac)
	copy(arp.ProtocolAddressSender(), addr.AsSlice())
	copy(arp.ProtocolAddressTarget(), addr.AsSlice())
	if op == header.ARPReply {
		copy(arp.HardwareAddressTarget(), header.EthernetBroadcastAddress)
	}
	return f
}

// advertisementFrame is an unsolicited neighbour advertisement to all nodes that
// overrides what they remember (RFC 4861, section 7.2.6).
func advertisementFrame(mac tcpip.LinkAddress, addr netip.Addr) []byte {
	options := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(mac)}
	icmpBytes := header.ICMPv6NeighborAdvertMinimumSize + options.Length()
	f := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize+icmpBytes)
	src, dst := tcpipAddr(addr), header.IPv6AllNodesMulticastAddress
	header.Ethernet(f).Encode(&header.EthernetFields{
		SrcAddr: mac, DstAddr: header.EthernetAddressFromMulticastIPv6Address(dst), Type: header.IPv6ProtocolNumber,
	})
	header.IPv6(f[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(icmpBytes),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          header.NDPHopLimit,
		SrcAddr:           src,
		DstAddr:           dst,
	})
	icmp := header.ICMPv6(f[header.EthernetMinimumSize+header.IPv6MinimumSize:])
	icmp.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(icmp.MessageBody())
	na.SetOverrideFlag(true)
	na.SetTargetAddress(src)
	na.Options().Serialize(options)
	icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header:      icmp,
		Src:         src,
		Dst:         dst,
		PayloadCsum: checksum.Checksum(nil, 0),
	}))
	return f
}
