package network

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
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

// maxConnections bounds the list of connections of a save.
const maxConnections = 32 << 10

// statePattern is the form of netstack's names of states. They are printed.
var statePattern = regexp.MustCompile(`^[A-Z0-9_-]{1,20}$`)

// ParseConnections decodes a list of connections from an image; nil has none.
func ParseConnections(data []byte) ([]Connection, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var list []Connection
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("connections: %w", err)
	}
	if len(list) > maxConnections {
		return nil, fmt.Errorf("connections: %d, at most %d", len(list), maxConnections)
	}
	for _, c := range list {
		if !statePattern.MatchString(c.State) {
			return nil, fmt.Errorf("connections: state %q is none of netstack's", c.State)
		}
		if c.Local.Addr().Zone() != "" || c.Remote.Addr().Zone() != "" {
			return nil, fmt.Errorf("connections: %+q has a zone, and netstack's addresses have none", c.String())
		}
		if (c.Protocol != ProtocolTCP && c.Protocol != ProtocolUDP) || !c.Local.IsValid() ||
			(c.Remote.IsValid() && c.Remote.Addr().Is4() != c.Local.Addr().Is4()) {
			return nil, fmt.Errorf("connections: %+v is none", c)
		}
	}
	return list, nil
}

// Connections lists the TCP and UDP sockets of a stack, sorted. The stack may be
// running; for exact sequence numbers it must be paused. What is beyond 32,768 is
// left out.
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
	return list[:min(len(list), maxConnections)]
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
			state := readControlBlock(t)
			c.SendUnacknowledged, c.SendNext, c.ReceiveNext = state.sendUnacknowledged, state.sendNext, state.receiveNext
		}
	case header.UDPProtocolNumber:
		c.Protocol, c.State = ProtocolUDP, transport.DatagramEndpointState(e.State()).String()
	default:
		return Connection{}, false
	}
	return c, true
}

// wildcard stands for "any address of either family".
func wildcard(a netip.Addr) netip.Addr {
	if !a.IsValid() {
		return netip.IPv6Unspecified()
	}
	return a
}
