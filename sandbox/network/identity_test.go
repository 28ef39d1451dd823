package network

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// exampleIdentity has every field set.
func exampleIdentity() *Identity {
	return &Identity{
		Links: []Link{
			{Name: "eth0", NIC: 2, MAC: "02:00:00:00:00:01", MTUBytes: 1500, Up: true,
				Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64"), GSOMaxSizeBytes: 65536},
			{Name: "renamed", HostName: "eth1", NIC: 3, MAC: "02:00:00:00:00:03", MTUBytes: 9000, Up: true,
				Addresses: prefixes("198.51.100.1/24")},
		},
		Loopback: prefixes("127.0.0.2/32"),
		Routes: []Route{
			{NIC: 2, Destination: netip.MustParsePrefix("192.0.2.0/24")},
			{NIC: 2, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.254"),
				Source: netip.MustParseAddr("192.0.2.1"), MTUBytes: 1400},
		},
		Neighbours:  []Neighbour{{NIC: 2, Address: netip.MustParseAddr("192.0.2.254"), MAC: "02:00:00:00:00:fe"}},
		Unsupported: []string{"blackhole 203.0.113.0/24"},
	}
}

var compareAddrs = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func TestIdentityRoundTrip(t *testing.T) {
	want := exampleIdentity()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseIdentity(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Errorf("identity changed on the way (-want +got):\n%s", d)
	}
}

func TestIdentityValidate(t *testing.T) {
	if err := (&Identity{}).Validate(); err != nil {
		t.Errorf("loopback only: %v", err)
	}
	for name, breakIt := range map[string]func(*Identity){
		"gap in ids":            func(id *Identity) { id.Links[1].NIC = 4 },
		"two of one name":       func(id *Identity) { id.Links[1].Name = "eth0" },
		"named lo":              func(id *Identity) { id.Links[0].Name = "lo" },
		"name is a path":        func(id *Identity) { id.Links[0].Name = "../x" },
		"host name is a path":   func(id *Identity) { id.Links[0].HostName = ".." },
		"long name":             func(id *Identity) { id.Links[0].Name = strings.Repeat("x", 16) },
		"tiny mtu":              func(id *Identity) { id.Links[0].MTUBytes = 10 },
		"huge gso":              func(id *Identity) { id.Links[0].GSOMaxSizeBytes = 1 << 30 },
		"hardware address":      func(id *Identity) { id.Links[0].MAC = "02:00:00:00:00:00:00:01" },
		"address twice":         func(id *Identity) { id.Links[0].Addresses = prefixes("192.0.2.1/24", "192.0.2.1/24") },
		"unset address":         func(id *Identity) { id.Links[0].Addresses = []netip.Prefix{{}} },
		"wildcard address":      func(id *Identity) { id.Links[0].Addresses = prefixes("0.0.0.0/0") },
		"mapped address":        func(id *Identity) { id.Loopback = prefixes("::ffff:127.0.0.1/128") },
		"route of no link":      func(id *Identity) { id.Routes[0].NIC = 9 },
		"route with host bits":  func(id *Identity) { id.Routes[0].Destination = netip.MustParsePrefix("192.0.2.1/24") },
		"gateway of other kind": func(id *Identity) { id.Routes[1].Gateway = netip.MustParseAddr("2001:db8::1") },
		"neighbour of loopback": func(id *Identity) { id.Neighbours[0].NIC = LoopbackNIC },
		"neighbour without mac": func(id *Identity) { id.Neighbours[0].MAC = "" },
		"too many links":        func(id *Identity) { id.Links = make([]Link, maxLinks+1) },
	} {
		id := exampleIdentity()
		breakIt(id)
		if err := id.Validate(); !errors.Is(err, ErrInvalidIdentity) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCompare(t *testing.T) {
	sandbox := exampleIdentity()
	if d := sandbox.Compare(hostView(sandbox)); len(d) != 0 {
		t.Errorf("differs from itself: %v", d)
	}
	for name, c := range map[string]struct {
		change func(*Identity)
		code   string
		level  Severity
	}{
		"no link":       {func(h *Identity) { h.Links, h.Routes, h.Neighbours = h.Links[:1], h.Routes[:2], nil }, CodeLinkMissing, SeverityBlocks},
		"smaller mtu":   {func(h *Identity) { h.Links[0].MTUBytes = 1400 }, CodeMTU, SeverityBlocks},
		"larger mtu":    {func(h *Identity) { h.Links[0].MTUBytes = 9000 }, CodeMTU, SeverityNote},
		"no gso":        {func(h *Identity) { h.Links[0].GSOMaxSizeBytes = 0 }, CodeGSOMode, SeverityNote},
		"no mac":        {func(h *Identity) { h.Links[0].MAC = "" }, CodeLinkKind, SeverityBlocks},
		"no address":    {func(h *Identity) { h.Links[0].Addresses = h.Links[0].Addresses[:1] }, CodeAddressMissing, SeverityAddress},
		"more address":  {func(h *Identity) { h.Links[1].Addresses = prefixes("198.51.100.1/24", "198.51.100.2/24") }, CodeAddressExtra, SeverityAddress},
		"other gateway": {func(h *Identity) { h.Routes[1].Gateway = netip.MustParseAddr("192.0.2.253") }, CodeRouteMissing, SeverityNote},
		"more links":    {func(h *Identity) { h.Links = append(h.Links, Link{Name: "eth2", NIC: 4}) }, CodeLinkExtra, SeverityNote},
	} {
		host := hostView(sandbox)
		c.change(host)
		diffs := sandbox.Compare(host)
		if len(diffs) != 1 || diffs[0].Code != c.code || diffs[0].Severity != c.level {
			t.Errorf("%s: got %v, want one %s (%s)", name, diffs, c.code, c.level)
			continue
		}
		if diffs[0].Remedy == "" || diffs[0].Subject == "" {
			t.Errorf("%s: no remedy or subject: %+v", name, diffs[0])
		}
	}
}

// hostView is id as Probe would see it on a host: the host's own names.
func hostView(id *Identity) *Identity {
	data, _ := json.Marshal(id)
	host, err := ParseIdentity(data)
	if err != nil {
		panic(err)
	}
	for i := range host.Links {
		host.Links[i].Name, host.Links[i].HostName = host.Links[i].hostName(), ""
	}
	return host
}

func TestRelocate(t *testing.T) {
	sandbox := exampleIdentity()
	host := &Identity{
		Links: []Link{ // in another order, with other ids
			{Name: "eth1", NIC: 2, MAC: "02:00:00:00:00:13", MTUBytes: 9000, Up: true, Addresses: prefixes("198.51.100.9/24")},
			{Name: "eth0", NIC: 3, MAC: "02:00:00:00:00:11", MTUBytes: 1500, Up: true, Addresses: prefixes("192.0.2.9/24")},
		},
		Routes: []Route{{NIC: 3, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.253")}},
	}
	got, err := sandbox.Relocate(host)
	if err != nil {
		t.Fatal(err)
	}
	if l := got.Links[0]; l.Name != "eth0" || l.NIC != 2 || l.MAC != "02:00:00:00:00:11" || l.GSOMaxSizeBytes != 65536 {
		t.Errorf("first link: %+v", l)
	}
	if l := got.Links[1]; l.Name != "renamed" || l.HostName != "eth1" || l.Addresses[0].String() != "198.51.100.9/24" {
		t.Errorf("second link: %+v", l)
	}
	if len(got.Routes) != 1 || got.Routes[0].NIC != 2 {
		t.Errorf("routes: %v", got.Routes)
	}
	if got.SameAddresses(sandbox) || !sandbox.SameAddresses(hostView(sandbox)) {
		t.Error("SameAddresses is wrong")
	}
	// An interface that is down has no routes yet.
	for i := range host.Links {
		host.Links[i].Up = false
	}
	host.Routes = nil
	sandbox.Routes = []Route{
		{NIC: 2, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), Source: netip.MustParseAddr("192.0.2.2")},
		{NIC: 2, Destination: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("203.0.113.1")},
	}
	if got, err = sandbox.Relocate(host); err != nil {
		t.Fatal(err)
	}
	want := []Route{
		{NIC: 2, Destination: netip.MustParsePrefix("192.0.2.0/24")},
		{NIC: 2, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1")},
		{NIC: got.Links[1].NIC, Destination: netip.MustParsePrefix("198.51.100.0/24")},
	}
	if !slices.Equal(got.Routes, want) {
		t.Errorf("routes of interfaces that are down: %v, want %v", got.Routes, want)
	}
	if _, err := sandbox.Relocate(&Identity{}); !errors.Is(err, ErrLinkMissing) {
		t.Errorf("relocate without links: %v", err)
	}
}

func FuzzParseIdentity(f *testing.F) {
	seed, err := json.Marshal(exampleIdentity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"links":[{"name":"a","nic":2,"mtuBytes":1500,"addresses":["::1/0"]}]}`))
	f.Add([]byte(`{"routes":[{"nic":1,"destination":"10.0.0.0/8","gateway":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := ParseIdentity(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseIdentity(again)
		if err != nil {
			t.Fatalf("own output is refused: %v", err)
		}
		if d := cmp.Diff(id, back, compareAddrs, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("identity changed:\n%s", d)
		}
		routeTable(id) // must not panic on anything valid
		id.Compare(back)
		if _, err := id.Relocate(back); err != nil && !errors.Is(err, ErrLinkMissing) && !errors.Is(err, ErrInvalidIdentity) {
			t.Fatal(err)
		}
	})
}
