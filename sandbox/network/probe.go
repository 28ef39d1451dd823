package network

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Probe reads what a sandbox would take over from the network namespace at
// nsPath (empty: the caller's own). It changes nothing. Interfaces that are down
// and have no address are left out; others are ordered by kernel index.
func Probe(nsPath string) (*Identity, error) {
	id := &Identity{}
	err := InNamespace(nsPath, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		p := prober{handle: h, id: id, nicByIndex: map[int]int32{}}
		return p.run()
	})
	if err != nil {
		return nil, fmt.Errorf("probe network: %w", err)
	}
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("probe network: %w", err)
	}
	return id, nil
}

// prober collects an identity on a thread inside the namespace.
type prober struct {
	handle     *netlink.Handle
	id         *Identity
	nicByIndex map[int]int32
}

func (p *prober) run() error {
	links, err := p.handle.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	for _, l := range links {
		if err := p.addLink(l); err != nil {
			return fmt.Errorf("interface %q: %w", l.Attrs().Name, err)
		}
	}
	if err := p.addRoutes(); err != nil {
		return err
	}
	return p.addNeighbours()
}

func (p *prober) addLink(l netlink.Link) error {
	attrs := l.Attrs()
	if attrs.Flags&net.FlagLoopback != 0 {
		return nil
	}
	addrs, err := p.addresses(l)
	if err != nil {
		return err
	}
	up := attrs.Flags&net.FlagUp != 0
	if !up && len(addrs) == 0 {
		return nil
	}
	link := Link{
		Name:      attrs.Name,
		NIC:       int32(LoopbackNIC + 1 + len(p.id.Links)),
		MTUBytes:  attrs.MTU,
		Up:        up,
		Addresses: addrs,
	}
	if len(attrs.HardwareAddr) > 0 {
		link.MAC = attrs.HardwareAddr.String()
	}
	gso, err := segmentationEnabled(attrs.Name)
	if err != nil {
		return fmt.Errorf("read segmentation offload: %w", err)
	}
	if gso {
		link.GSOMaxSizeBytes = attrs.GSOMaxSize
	}
	p.nicByIndex[attrs.Index] = link.NIC
	p.id.Links = append(p.id.Links, link)
	return nil
}

func (p *prober) addresses(l netlink.Link) ([]netip.Prefix, error) {
	list, err := p.handle.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var addrs []netip.Prefix
	for _, a := range list {
		prefix, ok := prefixOf(a.IPNet)
		switch {
		case !ok:
			p.note("address %v on %s cannot be represented", a.IPNet, l.Attrs().Name)
		case a.Flags&unix.IFA_F_TEMPORARY != 0 && prefix.Addr().Is6():
			// A privacy address; the kernel makes new ones and no one may rely on it.
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			p.note("address %v on %s is in use by another host", prefix, l.Attrs().Name)
		case slices.Contains(addrs, prefix):
		default:
			addrs = append(addrs, prefix)
		}
	}
	return addrs, nil
}

func (p *prober) addRoutes() error {
	list, err := p.handle.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	// Netstack knows no metric and takes the first of equally long prefixes.
	slices.SortStableFunc(list, func(a, b netlink.Route) int {
		return cmp.Or(-cmp.Compare(prefixBits(a.Dst), prefixBits(b.Dst)), cmp.Compare(a.Priority, b.Priority))
	})
	for _, r := range list {
		p.addRoute(r)
	}
	return nil
}

func (p *prober) addRoute(r netlink.Route) {
	nic, known := p.nicByIndex[r.LinkIndex]
	switch {
	case r.Type != unix.RTN_UNICAST:
		p.note("route %v: only unicast routes are taken over", r)
		return
	case len(r.MultiPath) > 0:
		p.note("route %v: several next hops", r)
		return
	case !known:
		return // of lo, or of an interface that is left out
	}
	route := Route{NIC: nic, Destination: defaultPrefix(r.Family), MTUBytes: uint32(r.MTU)}
	if r.Dst != nil {
		prefix, ok := prefixOf(r.Dst)
		if !ok {
			p.note("route %v: destination", r)
			return
		}
		route.Destination = prefix.Masked()
	}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		route.Gateway = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(r.Src); ok {
		route.Source = a.Unmap()
	}
	p.id.Routes = append(p.id.Routes, route)
}

func (p *prober) addNeighbours() error {
	for index, nic := range p.nicByIndex {
		entries, err := permanentNeighbours(p.handle, index)
		if err != nil {
			return err
		}
		for addr, mac := range entries {
			p.id.Neighbours = append(p.id.Neighbours, Neighbour{NIC: nic, Address: addr, MAC: mac})
		}
	}
	slices.SortFunc(p.id.Neighbours, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.NIC, b.NIC), a.Address.Compare(b.Address))
	})
	return nil
}

// permanentNeighbours reads the neighbours that someone set by hand on an
// interface; the kernel learns the others again.
func permanentNeighbours(h *netlink.Handle, index int) (map[netip.Addr]string, error) {
	list, err := h.NeighList(index, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	entries := map[netip.Addr]string{}
	for _, n := range list {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && n.State == netlink.NUD_PERMANENT && len(n.HardwareAddr) == 6 {
			entries[addr.Unmap()] = n.HardwareAddr.String()
		}
	}
	return entries, nil
}

func (p *prober) note(format string, args ...any) {
	if len(p.id.Unsupported) < maxNotes {
		p.id.Unsupported = append(p.id.Unsupported, fmt.Sprintf(format, args...))
	}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	if addr.Is4() && bits == 128 {
		ones -= 96
	}
	prefix := netip.PrefixFrom(addr, ones)
	return prefix, prefix.IsValid()
}

func prefixBits(n *net.IPNet) int {
	if n == nil {
		return 0
	}
	ones, _ := n.Mask.Size()
	return ones
}

func defaultPrefix(family int) netip.Prefix {
	if family == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
