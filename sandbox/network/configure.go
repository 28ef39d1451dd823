package network

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/link/qdisc/fifo"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// outboundQueuePackets is the length of each link's transmit queue.
const outboundQueuePackets = 1000

// Configure gives a fresh stack the interfaces, addresses, routes and permanent
// neighbours of id. fds are the packet sockets of Takeover.Files in the same
// order: as many for each link, all links in turn. The gates are open; a restore
// calls Gates.Hold before anything can arrive that matters.
//
// On success the descriptors belong to the stack and must stay open as long as
// it lives. Configure must not be called twice on one stack.
func Configure(s *stack.Stack, id *Identity, fds []int) (*Gates, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	channels := 0
	if len(id.Links) > 0 {
		channels = len(fds) / len(id.Links)
	}
	if len(fds) != channels*len(id.Links) || (len(id.Links) > 0 && channels == 0) {
		return nil, fmt.Errorf("%d packet sockets for %d links", len(fds), len(id.Links))
	}
	if err := addLoopback(s, id.Loopback); err != nil {
		return nil, err
	}
	gates := &Gates{clock: s.Clock()}
	for i := range id.Links {
		l := &id.Links[i]
		lower, err := newLinkEndpoint(l, fds[i*channels:(i+1)*channels])
		if err != nil {
			return nil, fmt.Errorf("link %q: %w", l.Name, err)
		}
		gate, err := addLink(s, l, lower)
		if err != nil {
			return nil, fmt.Errorf("link %q: %w", l.Name, err)
		}
		gates.list = append(gates.list, gate)
	}
	s.SetRouteTable(routeTable(id))
	for _, n := range id.Neighbours {
		hw, err := net.ParseMAC(n.MAC)
		if err != nil {
			return nil, err
		}
		addr := tcpipAddr(n.Address)
		if err := s.AddStaticNeighbor(tcpip.NICID(n.NIC), protocolOf(n.Address), addr, tcpip.LinkAddress(hw)); err != nil {
			return nil, fmt.Errorf("add neighbour %v: %s", n.Address, err)
		}
	}
	return gates, nil
}

// newLinkEndpoint opens the stack's side of a link. The options are those that
// measure fastest on a veth pair: batched receive, segmentation by the host, and
// trust in the host's checksums (they are often not even filled in there).
func newLinkEndpoint(l *Link, fds []int) (stack.LinkEndpoint, error) {
	mac, err := l.linkAddress()
	if err != nil {
		return nil, err
	}
	return fdbased.New(&fdbased.Options{
		FDs:                fds,
		MTU:                uint32(l.MTUBytes),
		EthernetHeader:     mac != "",
		Address:            mac,
		PacketDispatchMode: fdbased.RecvMMsg,
		// Only the host's segmentation: a restored connection of the stack's own
		// kind has a maximum segment size of zero, and divides by it.
		GSOMaxSize:        l.GSOMaxSizeBytes,
		RXChecksumOffload: true,
	})
}

// addLink creates the interface of l over lower, behind a gate.
func addLink(s *stack.Stack, l *Link, lower stack.LinkEndpoint) (*Gate, error) {
	gate := newGate(l, lower)
	opts := stack.NICOptions{
		Name:               l.Name,
		QDisc:              fifo.New(gate, runtime.GOMAXPROCS(0), outboundQueuePackets),
		DeliverLinkPackets: true,
	}
	if err := addInterface(s, tcpip.NICID(l.NIC), gate, opts, l.Addresses); err != nil {
		return nil, err
	}
	return gate, nil
}

func addLoopback(s *stack.Stack, extra []netip.Prefix) error {
	opts := stack.NICOptions{Name: "lo", DeliverLinkPackets: true}
	addrs := append(loopbackAddresses(), extra...)
	return addInterface(s, LoopbackNIC, ethernet.New(loopback.New()), opts, addrs)
}

func loopbackAddresses() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}
}

func addInterface(s *stack.Stack, nic tcpip.NICID, ep stack.LinkEndpoint, opts stack.NICOptions, addrs []netip.Prefix) error {
	// The stack's own counter must agree with the ids of the identity: on restore
	// it is advanced once an interface.
	if got := s.NextNICID(); got != nic {
		return fmt.Errorf("interface id %d is taken, next free is %d", nic, got)
	}
	if err := s.CreateNICWithOptions(nic, ep, opts); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	for _, a := range addrs {
		if err := s.AddProtocolAddress(nic, protocolAddress(a), stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %v: %s", a, err)
		}
	}
	return nil
}

// routeTable is the identity's routes plus those of loopback, which the kernel
// keeps in a table of its own.
func routeTable(id *Identity) []tcpip.Route {
	var table []tcpip.Route
	for _, a := range loopbackAddresses() {
		table = append(table, tcpip.Route{Destination: subnet(a.Masked()), NIC: LoopbackNIC})
	}
	for _, r := range id.Routes {
		table = append(table, tcpipRoute(r))
	}
	return table
}

func tcpipRoute(r Route) tcpip.Route {
	out := tcpip.Route{Destination: subnet(r.Destination), NIC: tcpip.NICID(r.NIC), MTU: r.MTUBytes}
	if r.Gateway.IsValid() {
		out.Gateway = tcpipAddr(r.Gateway)
	}
	if r.Source.IsValid() {
		out.SourceHint = tcpipAddr(r.Source)
	}
	return out
}

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: tcpipAddr(p.Addr()), PrefixLen: p.Bits()}.Subnet()
}

func protocolAddress(p netip.Prefix) tcpip.ProtocolAddress {
	return tcpip.ProtocolAddress{
		Protocol:          protocolOf(p.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpipAddr(p.Addr()), PrefixLen: p.Bits()},
	}
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// netipAddr converts back; an unset address gives the zero Addr.
func netipAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func (l *Link) linkAddress() (tcpip.LinkAddress, error) {
	if l.MAC == "" {
		return "", nil
	}
	hw, err := net.ParseMAC(l.MAC)
	return tcpip.LinkAddress(hw), err
}
