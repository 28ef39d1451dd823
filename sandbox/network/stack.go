package network

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// NewStack builds an empty netstack whose established connections can be saved
// and moved, see Quiesce. It has no interface until Configure. The clock must be the
// sandbox's timekeeper at boot; for a stack that only carries the configuration
// into a restore, any clock will do.
func NewStack(clock tcpip.Clock, ids uniqueid.Provider) (*netstack.Stack, error) {
	inner := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		Clock:       newFreezableClock(clock),
		Stats:       netstack.Metrics,
		HandleLocal: true,
		// The guest's own capabilities decide who may open a raw socket.
		RawFactory:            raw.EndpointFactory{},
		AllowLiveTCPMigration: true,
		DefaultIPTables:       netfilter.DefaultLinuxTables,
	})
	// Without it, every connection that leaves through a real link is reset on save.
	inner.SetAllowConnectedOnSave(true)
	if err := tune(inner); err != nil {
		return nil, err
	}
	return netstack.NewStack(inner, ids.UniqueID()), nil
}

// tune sets the protocol options that the throughput depends on.
func tune(s *stack.Stack) error {
	sack := tcpip.TCPSACKEnabled(true)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("enable selective acknowledgements: %s", err)
	}
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate); err != nil {
		return fmt.Errorf("enable receive buffer tuning: %s", err)
	}
	ttl := tcpip.DefaultTTLOption(netstack.DefaultTTL)
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.SetNetworkProtocolOption(proto, &ttl); err != nil {
			return fmt.Errorf("set default ttl of protocol %#x: %s", proto, err)
		}
	}
	return nil
}

// StackCreator makes the stack of a network namespace that the guest creates: a
// loopback interface and nothing else. It is saved with the kernel.
type StackCreator struct {
	clock tcpip.Clock
	ids   uniqueid.Provider
}

// NewStackCreator returns a creator whose stacks use the given clock and ids;
// both are part of the kernel and are saved with it. The clock should be that of
// the root stack (Stack.Clock), so that Quiesce stops the inner ones too.
func NewStackCreator(clock tcpip.Clock, ids uniqueid.Provider) *StackCreator {
	return &StackCreator{clock: clock, ids: ids}
}

// CreateStack implements inet.NetworkStackCreator.
func (c *StackCreator) CreateStack() (inet.Stack, error) {
	s, err := NewStack(c.clock, c.ids)
	if err != nil {
		return nil, err
	}
	if _, err := Configure(s.Stack, &Identity{}, nil); err != nil {
		return nil, err
	}
	return s, nil
}
