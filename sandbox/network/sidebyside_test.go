package network

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSideBySide(t *testing.T) {
	saved := &Identity{
		Links:  []Link{{Name: "eth0", NIC: 2, MTUBytes: 1500, MAC: macA, Addresses: prefixes("192.0.2.1/24", "2001:db8::1/64")}},
		Routes: []Route{{NIC: 2, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.254")}},
	}
	host := &Identity{Links: []Link{
		{Name: "eth0", NIC: 2, MTUBytes: 9000, MAC: macB, Addresses: prefixes("192.0.2.7/24", "2001:db8::1/64")},
		{Name: "eth1", NIC: 3, MTUBytes: 1500, MAC: macC},
	}}
	want := []Row{
		{"eth0", "mtu", "1500", "9000"},
		{"eth0", "hardware address", macA, macB},
		{"eth0", "address", "192.0.2.1/24", ""},
		{"eth0", "address", "2001:db8::1/64", "2001:db8::1/64"},
		{"eth0", "route", "default via 192.0.2.254", ""},
		{"eth0", "address", "", "192.0.2.7/24"},
		{"eth1", "mtu", "", "1500"},
		{"eth1", "hardware address", "", macC},
	}
	if d := cmp.Diff(want, saved.SideBySide(host)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	for _, r := range saved.SideBySide(&Identity{}) {
		if r.Host != "" {
			t.Errorf("a host without interfaces has %+v", r)
		}
	}
}
