package network

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Codes of what a guest configured and a restore cannot give back.
const (
	CodeGuestInterface  = "network-guest-interface"
	CodeGuestRoute      = "network-guest-route"
	CodeGuestFilters    = "network-guest-filters"
	CodeGuestNFTables   = "network-guest-nftables"
	CodeGuestForwarding = "network-guest-forwarding"
	CodeGuestNAT        = "network-connection-tracking"
)

// Loss is something that the guest configured and that would not be there after
// a restore.
type Loss struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`

	// Blocks says that the guest's traffic would break or, worse, no longer be
	// filtered; a save should be refused. Otherwise the loss is reported.
	Blocks bool `json:"blocks"`
}

// Snapshot returns the identity as the guest has made it by now: the addresses,
// routes, names, MTU and permanent neighbours that the stack has at this moment.
// It is what an image or a target must be given, because a restored stack takes
// its configuration from the identity alone. booted is the identity that the
// stack was configured with. What cannot be expressed is returned by name.
func Snapshot(s *stack.Stack, booted *Identity) (*Identity, []Loss) {
	id := &Identity{Unsupported: slices.Clone(booted.Unsupported)}
	infos := s.NICInfo()
	var losses []Loss
	for _, nic := range slices.Sorted(maps.Keys(infos)) {
		info := infos[nic]
		old := booted.link(int32(nic))
		switch {
		case nic == LoopbackNIC:
			id.Loopback = addressesOf(info, loopbackAddresses())
		case old == nil:
			losses = append(losses, Loss{CodeGuestInterface, fmt.Sprintf("interface %q, made inside", info.Name), true})
		default:
			id.Links = append(id.Links, snapshotLink(old, info))
		}
		if forwards(info) {
			losses = append(losses, Loss{CodeGuestForwarding, fmt.Sprintf("packet forwarding on %q", info.Name), false})
		}
	}
	for i := range booted.Links {
		if _, ok := infos[tcpip.NICID(booted.Links[i].NIC)]; !ok {
			// Ids count up, so later links could not keep theirs; it comes back.
			losses = append(losses, Loss{CodeGuestInterface, fmt.Sprintf("removal of interface %q", booted.Links[i].Name), true})
		}
	}
	losses = append(losses, id.snapshotRoutes(s)...)
	id.snapshotNeighbours(s)
	if s.IsNFTablesConfigured() {
		losses = append(losses, Loss{CodeGuestNFTables, "nftables rules", true})
	}
	if s.IPTables().Modified() {
		losses = append(losses, Loss{CodeGuestNAT, "connection tracking entries of the filter tables", false})
	}
	return id, losses
}

func snapshotLink(old *Link, info stack.NICInfo) Link {
	l := *old
	if info.Name != old.Name {
		l.Name, l.HostName = info.Name, old.hostName()
	}
	l.MTUBytes = int(info.MTU)
	if info.LinkAddress != "" {
		l.MAC = net.HardwareAddr(info.LinkAddress).String()
	}
	l.Addresses = addressesOf(info, nil)
	return l
}

// addressesOf lists an interface's own unicast addresses, without those in known.
func addressesOf(info stack.NICInfo, known []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range info.ProtocolAddresses {
		p := netip.PrefixFrom(netipAddr(a.AddressWithPrefix.Address), a.AddressWithPrefix.PrefixLen)
		if a.Protocol == header.ARPProtocolNumber || !p.IsValid() || p.Addr().IsMulticast() ||
			slices.Contains(known, p) || slices.Contains(list, p) {
			continue
		}
		list = append(list, p)
	}
	return list
}

func forwards(info stack.NICInfo) bool {
	for _, on := range info.Forwarding {
		if on {
			return true
		}
	}
	return false
}

func (id *Identity) snapshotRoutes(s *stack.Stack) []Loss {
	var losses []Loss
	for _, r := range s.GetRouteTable() {
		route := Route{
			NIC:         int32(r.NIC),
			Destination: netip.PrefixFrom(netipAddr(r.Destination.ID()), r.Destination.Prefix()),
			Gateway:     netipAddr(r.Gateway),
			Source:      netipAddr(r.SourceHint),
			MTUBytes:    r.MTU,
		}
		if r.NIC == LoopbackNIC && slices.ContainsFunc(loopbackAddresses(), func(p netip.Prefix) bool {
			return p.Masked() == route.Destination
		}) {
			continue // Configure makes it
		}
		if err := id.validateRoute(route); err != nil {
			losses = append(losses, Loss{CodeGuestRoute, fmt.Sprintf("route %v: %v", route, err), false})
			continue
		}
		id.Routes = append(id.Routes, route)
	}
	return losses
}

func (id *Identity) snapshotNeighbours(s *stack.Stack) {
	for _, l := range id.Links {
		for _, proto := range []tcpip.NetworkProtocolNumber{header.IPv4ProtocolNumber, header.IPv6ProtocolNumber} {
			entries, err := s.Neighbors(tcpip.NICID(l.NIC), proto)
			if err != nil {
				continue // an interface without link addresses
			}
			for _, n := range entries {
				if n.State == stack.Static && len(n.LinkAddr) == header.EthernetAddressSize {
					id.Neighbours = append(id.Neighbours,
						Neighbour{NIC: l.NIC, Address: netipAddr(n.Addr), MAC: net.HardwareAddr(n.LinkAddr).String()})
				}
			}
		}
	}
	slices.SortFunc(id.Neighbours, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.NIC, b.NIC), a.Address.Compare(b.Address))
	})
}
