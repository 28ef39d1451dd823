package network

import (
	"bytes"
	"context"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

type testIDs struct{ n atomic.Uint64 }

func (i *testIDs) UniqueID() uint64 { return i.n.Add(1) }

// newMemoryStack is a configured stack whose links end in memory.
func newMemoryStack(t *testing.T, id *Identity) (*netstack.Stack, *Gates, []*channel.Endpoint) {
	t.Helper()
	s, err := NewStack(tcpip.NewStdClock(), &testIDs{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Configure(s.Stack, &Identity{Loopback: id.Loopback}, nil); err != nil {
		t.Fatal(err)
	}
	gates := &Gates{}
	var lowers []*channel.Endpoint
	for i := range id.Links {
		l := &id.Links[i]
		mac, err := l.linkAddress()
		if err != nil {
			t.Fatal(err)
		}
		lower := channel.New(1024, uint32(l.MTUBytes), mac)
		lower.LinkEPCapabilities = stack.CapabilityResolutionRequired
		g, err := addLink(s.Stack, l, lower)
		if err != nil {
			t.Fatal(err)
		}
		gates.list, lowers = append(gates.list, g), append(lowers, lower)
	}
	s.Stack.SetRouteTable(routeTable(id))
	t.Cleanup(s.Stack.Destroy)
	return s, gates, lowers
}

func memoryIdentity() *Identity {
	id := exampleIdentity()
	for i := range id.Links {
		id.Links[i].GSOMaxSizeBytes = 0
	}
	return id
}

// A stack whose filters cannot be put back refuses each start, not only the first.
func TestUnpackFailsAgain(t *testing.T) {
	s, _, _ := newMemoryStack(t, memoryIdentity())
	s.Stack.Clock().(*freezableClock).luggage.filters = []byte("no tables")
	for i := range 2 {
		if err := Unpack(s.Stack); err == nil {
			t.Errorf("start %d goes on without the filters", i+1)
		}
	}
}

func TestConfigureChecksDescriptors(t *testing.T) {
	s, err := NewStack(tcpip.NewStdClock(), &testIDs{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stack.Destroy()
	for _, fds := range [][]int{nil, {3}, {3, 4, 5}} {
		if _, err := Configure(s.Stack, exampleIdentity(), fds); err == nil {
			t.Errorf("%d descriptors for 2 links: accepted", len(fds))
		}
	}
}

func TestConfigureLoopback(t *testing.T) {
	s, gates, _ := newMemoryStack(t, &Identity{})
	if len(gates.All()) != 0 {
		t.Errorf("%d gates", len(gates.All()))
	}
	info := s.Stack.NICInfo()[LoopbackNIC]
	if info.Name != "lo" || !info.Flags.Loopback || len(info.ProtocolAddresses) != 2 {
		t.Errorf("loopback: %+v", info)
	}
	if gates.Open(); gates.Announce() != nil {
		t.Error("announcing nothing fails")
	}
}

// listenTCP opens a listener inside the stack.
func listenTCP(t *testing.T, s *stack.Stack, addr netip.AddrPort) tcpip.Endpoint {
	t.Helper()
	var wq waiter.Queue
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, &wq)
	if terr != nil {
		t.Fatal(terr)
	}
	full := tcpip.FullAddress{Port: addr.Port()}
	if !addr.Addr().IsUnspecified() {
		full.Addr = tcpipAddr(addr.Addr())
	}
	if terr := ep.Bind(full); terr != nil {
		t.Fatal(terr)
	}
	if terr := ep.Listen(8); terr != nil {
		t.Fatal(terr)
	}
	return ep
}

// TestSaveReachesTheGate saves a stack with a listener, as the kernel does, and
// loads it: the gate must be savable, must be sealed by the save, and must stand
// in safely afterwards.
func TestSaveReachesTheGate(t *testing.T) {
	s, gates, _ := newMemoryStack(t, memoryIdentity())
	listenTCP(t, s.Stack, netip.MustParseAddrPort("192.0.2.1:80"))
	gates.Hold()
	root := &savedRoot{Stack: s, Gate: gates.list[0]}
	var buf bytes.Buffer
	if _, err := state.Save(context.Background(), &buf, root); err != nil {
		t.Fatalf("save: %v", err)
	}
	send(gates.list[0], 1)
	if st := gates.list[0].Stats(); st.DiscardedOutPackets != 1 {
		t.Errorf("after the save the gate keeps what the stack sends: %+v", st)
	}
	var loaded savedRoot
	if _, err := state.Load(context.Background(), &buf, &loaded); err != nil {
		t.Fatalf("load: %v", err)
	}
	g := loaded.Gate
	if g.Name() != "eth0" || g.MTU() != 1500 || g.LinkAddress() != testMAC || g.Mode() != ModeDrop {
		t.Errorf("loaded gate: %q mtu %d address %v mode %v", g.Name(), g.MTU(), g.LinkAddress(), g.Mode())
	}
	send(g, 2) // must not panic
	if n := len(loaded.Stack.Stack.RegisteredEndpoints()); n == 0 {
		t.Error("the listener is not in the loaded stack")
	}
}

// savedRoot is the part of a kernel that the test saves.
type savedRoot struct {
	Stack *netstack.Stack
	Gate  *Gate
}

func init() { state.Register((*savedRoot)(nil)) }

func (*savedRoot) StateTypeName() string { return "sbxmigrate/sandbox/network.savedRoot" }
func (*savedRoot) StateFields() []string { return []string{"Stack", "Gate"} }
func (r *savedRoot) StateSave(sink state.Sink) {
	sink.Save(0, &r.Stack)
	sink.Save(1, &r.Gate)
}
func (r *savedRoot) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &r.Stack)
	source.Load(1, &r.Gate)
}

func TestConnectionsListsListeners(t *testing.T) {
	s, _, _ := newMemoryStack(t, memoryIdentity())
	listenTCP(t, s.Stack, netip.MustParseAddrPort("192.0.2.1:80"))
	listenTCP(t, s.Stack, netip.MustParseAddrPort("0.0.0.0:81"))
	got := Connections(s.Stack)
	if len(got) != 2 || got[0].State != "LISTEN" || got[0].Protocol != ProtocolTCP {
		t.Fatalf("connections: %v", got)
	}
	fates := Survival(got, &Identity{})
	kept := map[uint16]bool{}
	for _, f := range fates {
		kept[f.Connection.Local.Port()] = f.Kept
	}
	if kept[80] || !kept[81] {
		t.Errorf("under no address: %+v", fates)
	}
}

func TestSnapshotFollowsTheGuest(t *testing.T) {
	booted := memoryIdentity()
	s, _, _ := newMemoryStack(t, booted)
	same, losses := Snapshot(s.Stack, booted)
	if len(losses) != 0 || !same.SameAddresses(booted) || len(same.Routes) != len(booted.Routes) {
		t.Fatalf("unchanged stack: %+v, losses %v", same, losses)
	}

	must := func(err tcpip.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Stack.AddProtocolAddress(2, protocolAddress(netip.MustParsePrefix("192.0.2.50/24")), stack.AddressProperties{}))
	must(s.Stack.RemoveAddress(3, tcpipAddr(netip.MustParseAddr("198.51.100.1"))))
	must(s.Stack.AddProtocolAddress(1, protocolAddress(netip.MustParsePrefix("10.1.1.1/32")), stack.AddressProperties{}))
	must(s.Stack.AddStaticNeighbor(2, header.IPv4ProtocolNumber, tcpipAddr(netip.MustParseAddr("192.0.2.9")), testPeerMAC))
	must(s.Stack.SetNICName(2, "wan"))
	s.Stack.AddRoute(tcpipRoute(Route{NIC: 2, Destination: netip.MustParsePrefix("203.0.113.0/24"), Gateway: netip.MustParseAddr("192.0.2.7")}))

	got, losses := Snapshot(s.Stack, booted)
	if len(losses) != 0 {
		t.Errorf("losses: %v", losses)
	}
	if err := got.Validate(); err != nil {
		t.Fatal(err)
	}
	if !got.HasAddress(netip.MustParseAddr("192.0.2.50")) || got.HasAddress(netip.MustParseAddr("198.51.100.1")) ||
		!got.HasAddress(netip.MustParseAddr("10.1.1.1")) {
		t.Errorf("addresses: %+v", got)
	}
	if got.Links[0].Name != "wan" || got.Links[0].HostName != "eth0" {
		t.Errorf("renamed link: %+v", got.Links[0])
	}
	if !got.reaches(netip.MustParseAddr("203.0.113.5")) || len(got.Neighbours) != 1 {
		t.Errorf("routes %v, neighbours %v", got.Routes, got.Neighbours)
	}
	// A stack configured with the snapshot gives the same snapshot.
	again, _, _ := newMemoryStack(t, got)
	if second, _ := Snapshot(again.Stack, got); !second.SameAddresses(got) || len(second.Routes) != len(got.Routes) {
		t.Errorf("second generation: %+v, want %+v", second, got)
	}

	must(s.Stack.CreateNIC(77, channel.New(1, 1500, testMAC)))
	if _, losses := Snapshot(s.Stack, booted); len(losses) != 1 || losses[0].Code != CodeGuestInterface || !losses[0].Blocks {
		t.Errorf("losses with an interface of the guest: %v", losses)
	}
}

func TestFiltersMove(t *testing.T) {
	from, _, _ := newMemoryStack(t, &Identity{})
	if data, err := ExportFilters(from.Stack); err != nil || data != nil {
		t.Fatalf("untouched tables: %d bytes, %v", len(data), err)
	}
	table := from.Stack.IPTables().GetTable(stack.FilterID, false)
	table.Rules[0].Filter = stack.IPHeaderFilter{Protocol: header.UDPProtocolNumber, CheckProtocol: true}
	table.Rules[0].Matchers = []stack.Matcher{netfilter.NewMarkMatcher(7, 0xff, true)}
	from.Stack.IPTables().ForceReplaceTable(stack.FilterID, table, false)
	data, err := ExportFilters(from.Stack)
	if err != nil || len(data) == 0 {
		t.Fatalf("export: %d bytes, %v", len(data), err)
	}

	to, _, _ := newMemoryStack(t, &Identity{})
	if err := ApplyFilters(to.Stack, data); err != nil {
		t.Fatal(err)
	}
	got := to.Stack.IPTables().GetTable(stack.FilterID, false)
	if len(got.Rules) != len(table.Rules) || !got.Rules[0].Filter.CheckProtocol || got.Rules[0].Filter.Protocol != header.UDPProtocolNumber {
		t.Errorf("rule 0 after the move: %+v", got.Rules[0])
	}
	if want := netfilter.NewMarkMatcher(7, 0xff, true); len(got.Rules[0].Matchers) != 1 || !reflect.DeepEqual(got.Rules[0].Matchers[0], stack.Matcher(want)) {
		t.Errorf("matchers after the move: %+v", got.Rules[0].Matchers)
	}
	rejecting := from.Stack.IPTables().GetTable(stack.FilterID, false)
	rejecting.Rules[0].Target = &stack.RejectIPv4Target{}
	from.Stack.IPTables().ForceReplaceTable(stack.FilterID, rejecting, false)
	if _, err := ExportFilters(from.Stack); err == nil || !strings.Contains(err.Error(), "RejectIPv4Target") {
		t.Errorf("a target that refers to the stack: %v", err)
	}
	if err := ApplyFilters(to.Stack, []byte("no state")); err == nil {
		t.Error("garbage accepted")
	}
	if err := ApplyFilters(to.Stack, nil); err != nil {
		t.Error(err)
	}
}
