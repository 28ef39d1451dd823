package network

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	macA = "02:00:00:00:aa:01"
	macB = "02:00:00:00:bb:01"
	macC = "02:00:00:00:cc:01"
)

// addRoutes gives a host a default route, a route with options and a neighbour.
func (l *lab) addRoutes(h *labHost) {
	l.t.Helper()
	l.in(h.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, dst, err := net.ParseCIDR("203.0.113.0/24")
		if err != nil {
			return err
		}
		index := link.Attrs().Index
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: net.ParseIP("192.0.2.254")}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: net.ParseIP("2001:db8::fe")}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: dst, Gw: net.ParseIP("192.0.2.253"),
				Src: net.ParseIP("192.0.2.1"), MTU: 1400, Priority: 7}),
			netlink.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: net.ParseIP("192.0.2.254"), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}}),
		)
	})
}

func TestProbeReadsTheNamespace(t *testing.T) {
	l := newLab(t)
	h := l.host(macA, true, "192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64")
	l.addRoutes(h)
	got, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Links) != 1 {
		t.Fatalf("links: %+v", got.Links)
	}
	link := got.Links[0]
	if link.Name != "eth0" || link.NIC != 2 || link.MAC != macA || link.MTUBytes != 1500 || !link.Up || link.GSOMaxSizeBytes == 0 {
		t.Errorf("link: %+v", link)
	}
	for _, a := range prefixes("192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64") {
		if !slices.Contains(link.Addresses, a) {
			t.Errorf("address %v is missing in %v", a, link.Addresses)
		}
	}
	for _, want := range []Route{
		{NIC: 2, Destination: netip.MustParsePrefix("192.0.2.0/24"), Source: netip.MustParseAddr("192.0.2.1")},
		{NIC: 2, Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.254")},
		{NIC: 2, Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("2001:db8::fe")},
		{NIC: 2, Destination: netip.MustParsePrefix("203.0.113.0/24"), Gateway: netip.MustParseAddr("192.0.2.253"),
			Source: netip.MustParseAddr("192.0.2.1"), MTUBytes: 1400},
	} {
		if !slices.Contains(got.Routes, want) {
			t.Errorf("route %+v is missing in %+v", want, got.Routes)
		}
	}
	if len(got.Neighbours) != 1 || got.Neighbours[0].MAC != "02:00:00:00:00:fe" {
		t.Errorf("neighbours: %+v", got.Neighbours)
	}
}

func TestTakeoverAndUndo(t *testing.T) {
	l := newLab(t)
	h := l.host(macA, true, "192.0.2.1/24", "192.0.2.11/24", "2001:db8::1/64")
	client := l.host(macC, true, "192.0.2.3/24")
	l.addRoutes(h)
	before, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	if !l.answers(client, "192.0.2.1", patient) {
		t.Fatal("the host's stack does not answer before the takeover")
	}
	takeover, err := Open(h.ns, before, Options{Channels: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(takeover.Files) != 2 {
		t.Errorf("%d packet sockets, want 2", len(takeover.Files))
	}
	if l.answers(client, "192.0.2.1", impatient) {
		t.Error("the host's stack still answers for the address")
	}
	if after, err := Probe(h.ns); err != nil || len(after.Links) != 1 || len(after.Links[0].Addresses) != 0 || len(after.Routes) != 0 {
		t.Errorf("after the takeover: %+v, %v", after, err)
	}

	// The record goes through a file between two commands.
	data, err := json.Marshal(takeover.Undo)
	if err != nil {
		t.Fatal(err)
	}
	takeover.Close()
	var undo Undo
	if err := json.Unmarshal(data, &undo); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time does no harm
		if err := undo.Restore(); err != nil {
			t.Fatal(err)
		}
	}
	after, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	// Bringing IPv6 back makes a link-local address, which may need its time.
	ignoreLinkLocal(before)
	ignoreLinkLocal(after)
	if d := cmp.Diff(before, after, compareAddrs); d != "" {
		t.Errorf("the undo left a difference (-before +after):\n%s", d)
	}
	if !l.answers(client, "192.0.2.1", patient) {
		t.Error("the host's stack does not answer after the undo")
	}
}

func ignoreLinkLocal(id *Identity) {
	for i := range id.Links {
		id.Links[i].Addresses = sortedPrefixes(slices.DeleteFunc(id.Links[i].Addresses,
			func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() }))
	}
	id.Routes = slices.DeleteFunc(id.Routes, func(r Route) bool { return r.Destination.Addr().IsLinkLocalUnicast() })
	slices.SortFunc(id.Routes, func(a, b Route) int { return a.Destination.Addr().Compare(b.Destination.Addr()) })
}

func TestFailedOpenGivesEverythingBack(t *testing.T) {
	l := newLab(t)
	h := l.host(macA, true, "192.0.2.1/24")
	id, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	broken := *id
	broken.Links = append(slices.Clone(id.Links), Link{Name: "eth7", NIC: 3, MTUBytes: 1500})
	if _, err := Open(h.ns, &broken, Options{}); !errors.Is(err, ErrLinkMissing) {
		t.Fatalf("open with a missing interface: %v", err)
	}
	after, err := Probe(h.ns)
	if err != nil {
		t.Fatal(err)
	}
	ignoreLinkLocal(id)
	ignoreLinkLocal(after)
	if d := cmp.Diff(id, after, compareAddrs); d != "" {
		t.Errorf("a failed open changed the namespace:\n%s", d)
	}
}

func TestOpenRefuses(t *testing.T) {
	l := newLab(t)
	h := l.host(macA, false, "192.0.2.1/24")
	id := &Identity{Links: []Link{{Name: "eth0", NIC: 2, MTUBytes: 1500, MAC: macA}}}
	if _, err := Open(h.ns, id, Options{}); err == nil {
		t.Error("an interface that is down is accepted")
	}
	id.Links[0].MTUBytes = 9000
	if _, err := Open(h.ns, id, Options{Silent: true}); err == nil {
		t.Error("a smaller mtu is accepted")
	}
	if _, err := Open(h.ns, id, Options{Channels: maxChannels + 1}); err == nil {
		t.Error("too many channels are accepted")
	}
	if host, err := isHostNamespace(); err != nil {
		t.Error(err)
	} else if host {
		if _, err := Open("", id, Options{}); !errors.Is(err, ErrHostNamespace) {
			t.Errorf("takeover of the host's own namespace: %v", err)
		}
	}
	if takeover, err := Open(h.ns, &Identity{}, Options{}); err != nil || len(takeover.Files) != 0 {
		t.Errorf("loopback only: %+v, %v", takeover, err)
	}
}

// TestOpenRefusesWhatIsTaken lets a second sandbox come to an interface: not as long as the first lives.
func TestOpenRefusesWhatIsTaken(t *testing.T) {
	l := newLab(t)
	h := l.host(macA, true, "192.0.2.1/24")
	n := l.takeOver(h)
	if _, err := Open(h.ns, n.identity, Options{Silent: true}); !errors.Is(err, ErrLinkTaken) {
		t.Fatalf("an interface that a sandbox has: %v", err)
	}
	if !l.answers(l.host(macC, true, "192.0.2.3/24"), "192.0.2.1", patient) {
		t.Error("the refused takeover disturbed the first")
	}
	// The process is gone, nothing was given back: this is what a migration leaves.
	n.leave()
	again, err := Open(h.ns, n.identity, Options{Silent: true})
	if err != nil {
		t.Fatalf("after the end of the first: %v", err)
	}
	if err := errors.Join(again.Close(), again.Undo.Restore(), n.takeover.Undo.Restore()); err != nil {
		t.Error(err)
	}
}

// TestSilentTargetSaysNothing prepares a twin of a running host and takes it over
// silently: not one frame leaves it before the announcement.
func TestSilentTargetSaysNothing(t *testing.T) {
	l := newLab(t)
	source := l.host(macA, true, "192.0.2.1/24", "2001:db8::1/64")
	client := l.host(macC, true, "192.0.2.3/24")
	twin := l.host(macB, false, "192.0.2.1/24", "2001:db8::1/64")
	id, err := Probe(source.ns)
	if err != nil {
		t.Fatal(err)
	}
	tap := l.tap(twin.port)
	n := l.run(twin, id, Options{Silent: true})
	n.gates.Hold()
	// A broadcast, so that the twin has something to answer.
	if !l.answers(client, "192.0.2.1", patient) {
		t.Error("the source's host stack stopped answering")
	}
	if got := tap.count(300 * time.Millisecond); got != 0 {
		t.Errorf("the silent twin sent %d frames", got)
	}
	if err := n.gates.Announce(); err != nil {
		t.Fatal(err)
	}
	if got := tap.count(2 * time.Second); got < 3 {
		t.Errorf("the announcement sent %d frames, want at least 3", got)
	}
	link := probeLink(t, twin.ns)
	if link.MAC != macA {
		t.Errorf("the twin has hardware address %s, want the sandbox's %s", link.MAC, macA)
	}
	if err := errors.Join(n.takeover.Close(), n.takeover.Undo.Restore()); err != nil {
		t.Fatal(err)
	}
	if link := probeLink(t, twin.ns); link.MAC != macB || link.Up || len(link.Addresses) == 0 {
		t.Errorf("after the undo: %+v", link)
	}
}

func probeLink(t *testing.T, ns string) Link {
	t.Helper()
	id, err := Probe(ns)
	if err != nil {
		t.Fatal(err)
	}
	if len(id.Links) != 1 {
		t.Fatalf("links: %+v", id.Links)
	}
	return id.Links[0]
}

// tap counts the frames that come out of a bridge port's cable.
type tap struct {
	t *testing.T
	f *os.File
}

func (l *lab) tap(port string) *tap {
	l.t.Helper()
	tp := &tap{t: l.t}
	l.in(l.bridge, func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		tp.f, err = openPacketSocket(link, false)
		return err
	})
	l.t.Cleanup(func() { tp.f.Close() })
	return tp
}

// count waits for as long as given and returns how many frames came in; it ends
// early after three.
func (tp *tap) count(wait time.Duration) int {
	tp.t.Helper()
	n := 0
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(wait); time.Now().Before(deadline) && n < 3; {
		_, from, err := unix.Recvfrom(int(tp.f.Fd()), buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			tp.t.Fatal(err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			n++
		}
	}
	return n
}
