package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Undo is what a takeover changed. It is plain data: a command that creates a
// sandbox can keep it, and give the addresses back when the sandbox is gone.
type Undo struct {
	// Namespace is the path of the network namespace; empty for the caller's own.
	Namespace string `json:"namespace,omitempty"`

	Links []UndoLink `json:"links,omitempty"`
}

// UndoLink is the former state of one interface.
type UndoLink struct {
	Name      string            `json:"name"`
	MAC       string            `json:"mac,omitempty"`
	Up        bool              `json:"up"`
	Addresses []UndoAddress     `json:"addresses,omitempty"`
	Routes    []UndoRoute       `json:"routes,omitempty"`
	Settings  map[string]string `json:"settings,omitempty"` // by path below /proc/sys/net

	// Neighbours are the permanent ones, hardware address by IP address.
	Neighbours map[netip.Addr]string `json:"neighbours,omitempty"`
}

// UndoAddress is an address of the host's stack.
type UndoAddress struct {
	Prefix    netip.Prefix `json:"prefix"`
	Peer      netip.Prefix `json:"peer,omitzero"`
	Broadcast netip.Addr   `json:"broadcast,omitzero"`
	Label     string       `json:"label,omitempty"`
	Scope     int          `json:"scope"`
	Flags     int          `json:"flags"`
}

// UndoRoute is a route of the host's stack. A zero Destination is the default.
type UndoRoute struct {
	Destination netip.Prefix `json:"destination,omitzero"`
	Gateway     netip.Addr   `json:"gateway,omitzero"`
	Source      netip.Addr   `json:"source,omitzero"`
	Family      int          `json:"family"`
	Scope       int          `json:"scope"`
	Protocol    int          `json:"protocol"`
	Metric      int          `json:"metric"`
	MTUBytes    int          `json:"mtuBytes,omitempty"`
	Flags       int          `json:"flags,omitempty"`
}

// silentSettings keep the host's stack quiet on an interface. The first also
// removes the IPv6 addresses; the second stops ARP answers for addresses that
// other interfaces of the namespace may have.
func silentSettings(link string) map[string]string {
	return map[string]string{
		filepath.Join("ipv6/conf", link, "disable_ipv6"): "1",
		filepath.Join("ipv4/conf", link, "arp_ignore"):   "8",
	}
}

// silence takes the host's stack off an interface.
func silence(h *netlink.Handle, link netlink.Link) error {
	for path, value := range silentSettings(link.Attrs().Name) {
		if err := writeSetting(path, value); err != nil {
			return err
		}
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for i := range addrs {
		// Removing a primary address may have removed its secondaries.
		if err := h.AddrDel(link, &addrs[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %v: %w", addrs[i].IPNet, err)
		}
	}
	return nil
}

func recordLink(h *netlink.Handle, link netlink.Link) (UndoLink, error) {
	attrs := link.Attrs()
	u := UndoLink{Name: attrs.Name, Up: attrs.RawFlags&unix.IFF_UP != 0, Settings: map[string]string{}}
	if len(attrs.HardwareAddr) > 0 {
		u.MAC = attrs.HardwareAddr.String()
	}
	for path := range silentSettings(attrs.Name) {
		value, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
		if errors.Is(err, os.ErrNotExist) {
			continue // a host without IPv6
		}
		if err != nil {
			return u, err
		}
		u.Settings[path] = strings.TrimSpace(string(value))
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		u.Addresses = append(u.Addresses, undoAddress(a))
	}
	neighbours, err := permanentNeighbours(h, attrs.Index)
	if err != nil {
		return u, err
	}
	u.Neighbours = neighbours
	routes, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return u, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		// The kernel makes its own again when the address comes back.
		if r.Type == unix.RTN_UNICAST && r.Protocol != unix.RTPROT_KERNEL && len(r.MultiPath) == 0 {
			u.Routes = append(u.Routes, undoRoute(r))
		}
	}
	return u, nil
}

func undoAddress(a netlink.Addr) UndoAddress {
	u := UndoAddress{Label: a.Label, Scope: a.Scope, Flags: a.Flags}
	u.Prefix, _ = prefixOf(a.IPNet)
	u.Peer, _ = prefixOf(a.Peer)
	if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
		u.Broadcast = b.Unmap()
	}
	return u
}

func undoRoute(r netlink.Route) UndoRoute {
	u := UndoRoute{
		Family: r.Family, Scope: int(r.Scope), Protocol: int(r.Protocol),
		Metric: r.Priority, MTUBytes: r.MTU, Flags: r.Flags & int(netlink.FLAG_ONLINK),
	}
	u.Destination, _ = prefixOf(r.Dst)
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		u.Gateway = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(r.Src); ok {
		u.Source = a.Unmap()
	}
	return u
}

// Restore gives the host's stack back what the takeover took. It does as much as
// it can, may be called again, and leaves alone an interface that is gone. The
// sandbox must be gone too, or two stacks answer for one address.
func (u *Undo) Restore() error {
	if len(u.Links) == 0 {
		return nil
	}
	return InNamespace(u.Namespace, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		var errs []error
		for i := range u.Links {
			if err := u.Links[i].restore(h); err != nil {
				errs = append(errs, fmt.Errorf("give back interface %q: %w", u.Links[i].Name, err))
			}
		}
		return errors.Join(errs...)
	})
}

func (u *UndoLink) restore(h *netlink.Handle) error {
	if err := validateName(u.Name); err != nil {
		return err
	}
	link, err := h.LinkByName(u.Name)
	if _, missing := err.(netlink.LinkNotFoundError); missing {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	if !u.Up {
		errs = append(errs, h.LinkSetDown(link))
	}
	if mac, err := net.ParseMAC(u.MAC); err == nil && mac.String() != link.Attrs().HardwareAddr.String() {
		errs = append(errs, h.LinkSetHardwareAddr(link, mac))
	}
	for path := range silentSettings(u.Name) {
		if value, ok := u.Settings[path]; ok {
			errs = append(errs, writeSetting(path, value))
		}
	}
	for _, a := range u.Addresses {
		errs = append(errs, ignoreExisting(h.AddrAdd(link, a.netlink())))
	}
	// On-link routes first: a gateway must be reachable to be accepted.
	for _, gateway := range []bool{false, true} {
		for _, r := range u.Routes {
			if u.Up && r.Gateway.IsValid() == gateway {
				errs = append(errs, ignoreExisting(h.RouteAdd(r.netlink(link))))
			}
		}
	}
	for addr, mac := range u.Neighbours {
		hw, err := net.ParseMAC(mac)
		if err == nil {
			err = h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice(),
				HardwareAddr: hw, State: netlink.NUD_PERMANENT})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *UndoAddress) netlink() *netlink.Addr {
	out := &netlink.Addr{
		IPNet: ipNet(a.Prefix), Label: a.Label, Scope: a.Scope,
		Flags: a.Flags &^ (unix.IFA_F_TENTATIVE | unix.IFA_F_PERMANENT | unix.IFA_F_SECONDARY | unix.IFA_F_DADFAILED),
	}
	if a.Prefix.Addr().Is6() {
		// The address was in use here a moment ago; no need to ask the link for it.
		out.Flags |= unix.IFA_F_NODAD
	}
	if a.Peer.IsValid() {
		out.Peer = ipNet(a.Peer)
	}
	if a.Broadcast.IsValid() {
		out.Broadcast = a.Broadcast.AsSlice()
	}
	return out
}

func (r *UndoRoute) netlink(link netlink.Link) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: link.Attrs().Index, Family: r.Family, Scope: netlink.Scope(r.Scope),
		Protocol: netlink.RouteProtocol(r.Protocol), Priority: r.Metric, MTU: r.MTUBytes, Flags: r.Flags,
	}
	if r.Destination.IsValid() {
		out.Dst = ipNet(r.Destination)
	}
	if r.Gateway.IsValid() {
		out.Gw = r.Gateway.AsSlice()
	}
	if r.Source.IsValid() {
		out.Src = r.Source.AsSlice()
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ignoreExisting(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// writeSetting writes a kernel setting of the thread's network namespace. A
// setting that does not exist belongs to a protocol that this host does not
// speak.
func writeSetting(path, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
