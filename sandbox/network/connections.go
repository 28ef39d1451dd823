package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Protocols of a Connection.
const (
	ProtocolTCP = "tcp"
	ProtocolUDP = "udp"
)

// Connection is one socket that the stack knows by its addresses.
type Connection struct {
	Protocol string `json:"protocol"`

	// State is netstack's name of it: ESTABLISHED, LISTEN, BOUND and so on.
	State string `json:"state"`

	// Local is the zero address for a socket on the wildcard.
	Local netip.AddrPort `json:"local"`

	// Remote is the zero AddrPort of a socket without a peer.
	Remote netip.AddrPort `json:"remote,omitzero"`

	// SendUnacknowledged, SendNext and ReceiveNext are the sequence numbers of a TCP
	// connection, for a reset that its peer believes. They are zero without a peer.
	SendUnacknowledged uint32 `json:"sendUnacknowledged,omitempty"`
	SendNext           uint32 `json:"sendNext,omitempty"`
	ReceiveNext        uint32 `json:"receiveNext,omitempty"`
}

// String is one line for reports.
func (c Connection) String() string {
	s := fmt.Sprintf("%s %v", c.Protocol, c.Local)
	if c.Remote.IsValid() {
		s += " - " + c.Remote.String()
	}
	return s + " " + c.State
}

// Connections lists the TCP and UDP sockets of a stack, sorted. The stack may be
// running; for exact sequence numbers it must be paused.
func Connections(s *stack.Stack) []Connection {
	seen := map[stack.TransportEndpoint]bool{}
	var list []Connection
	for _, ep := range s.RegisteredEndpoints() {
		// A dual-stack socket is registered once a family.
		if seen[ep] {
			continue
		}
		seen[ep] = true
		if c, ok := connection(ep); ok {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Connection) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	return list
}

func connection(ep stack.TransportEndpoint) (Connection, bool) {
	e, ok := ep.(tcpip.Endpoint)
	if !ok {
		return Connection{}, false
	}
	info, ok := e.Info().(*stack.TransportEndpointInfo)
	if !ok {
		return Connection{}, false
	}
	c := Connection{Local: netip.AddrPortFrom(wildcard(netipAddr(info.ID.LocalAddress)), info.ID.LocalPort)}
	if remote := netipAddr(info.ID.RemoteAddress); remote.IsValid() {
		c.Remote = netip.AddrPortFrom(remote, info.ID.RemotePort)
	}
	switch info.TransProto {
	case header.TCPProtocolNumber:
		c.Protocol, c.State = ProtocolTCP, tcp.EndpointState(e.State()).String()
		if t, ok := e.(*tcp.Endpoint); ok && c.Remote.IsValid() {
			c.setSequenceNumbers(t)
		}
	case header.UDPProtocolNumber:
		c.Protocol, c.State = ProtocolUDP, transport.DatagramEndpointState(e.State()).String()
	default:
		return Connection{}, false
	}
	return c, true
}

// setSequenceNumbers reads SND.UNA, SND.NXT and RCV.NXT. Netstack exposes them to
// a probe on every segment only, which is too dear, so they are read from the
// fields; a gVisor without them gives zeroes, and a test fails.
func (c *Connection) setSequenceNumbers(e *tcp.Endpoint) {
	e.LockUser()
	defer e.UnlockUser()
	v := reflect.ValueOf(e).Elem()
	c.SendUnacknowledged = sequenceField(v, "snd", "SndUna")
	c.SendNext = sequenceField(v, "snd", "SndNxt")
	c.ReceiveNext = sequenceField(v, "rcv", "RcvNxt")
}

func sequenceField(endpoint reflect.Value, half, name string) uint32 {
	p := endpoint.FieldByName(half)
	if !p.IsValid() || p.Kind() != reflect.Pointer || p.IsNil() {
		return 0
	}
	f := p.Elem().FieldByName(name)
	if !f.IsValid() || !f.CanUint() {
		return 0
	}
	return uint32(f.Uint())
}

// wildcard stands for "any address of either family".
func wildcard(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv6Unspecified()
	}
	return a
}
