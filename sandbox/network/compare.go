package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Codes of differences; they are stable and shown to the user.
const (
	CodeLinkMissing    = "network-link-missing"
	CodeLinkKind       = "network-link-kind"
	CodeMTU            = "network-mtu"
	CodeGSOMode        = "network-gso-mode"
	CodeAddressMissing = "network-address-missing"
	CodeAddressExtra   = "network-address-extra"
	CodeRouteMissing   = "network-route-missing"
	CodeLinkExtra      = "network-link-extra"
)

// Severity says what a difference means for a restore.
type Severity string

const (
	// SeverityBlocks: the network cannot be taken over as it is.
	SeverityBlocks Severity = "blocks"

	// SeverityAddress: taking the host's addresses instead of the saved ones ends
	// connections; taking the saved ones claims what the host did not prepare.
	SeverityAddress Severity = "address"

	// SeverityNote: it works, but the operator may want to know.
	SeverityNote Severity = "note"
)

// Difference is one point in which a host's network is not the sandbox's.
type Difference struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`

	// Subject is the interface's name.
	Subject string `json:"subject"`

	// Sandbox and Host are the two values side by side; empty where one has none.
	Sandbox string `json:"sandbox,omitempty"`
	Host    string `json:"host,omitempty"`

	// Remedy is what to do on the host.
	Remedy string `json:"remedy"`
}

// String is one line for people.
func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: sandbox %s, host %s: %s", d.Code, d.Subject,
		cmp.Or(d.Sandbox, "none"), cmp.Or(d.Host, "none"), d.Remedy)
}

// Compare holds the sandbox's identity against what Probe found in the namespace
// that is to receive it, and returns all differences in the order of the links.
func (id *Identity) Compare(host *Identity) []Difference {
	var diffs []Difference
	for i := range id.Links {
		l := &id.Links[i]
		h := host.linkByName(l.hostName())
		if h == nil {
			diffs = append(diffs, Difference{Code: CodeLinkMissing, Severity: SeverityBlocks, Subject: l.Name, Sandbox: l.MAC,
				Remedy: fmt.Sprintf("create interface %s in the network namespace", l.hostName())})
			continue
		}
		diffs = append(diffs, compareLink(l, h)...)
		diffs = append(diffs, compareRoutes(l.hostName(), id.routesOf(l.NIC), host.routesOf(h.NIC))...)
	}
	for i := range host.Links {
		if h := &host.Links[i]; id.linkByName(h.Name) == nil {
			diffs = append(diffs, Difference{Code: CodeLinkExtra, Severity: SeverityNote, Subject: h.Name, Host: h.MAC,
				Remedy: "nothing; the sandbox will not use it"})
		}
	}
	return diffs
}

func compareLink(l, h *Link) []Difference {
	var diffs []Difference
	if (l.MAC == "") != (h.MAC == "") {
		diffs = append(diffs, Difference{CodeLinkKind, SeverityBlocks, l.Name, l.MAC, h.MAC,
			"use the same kind of device; one of them has no hardware address"})
	}
	if h.MTUBytes != l.MTUBytes {
		severity := SeverityNote // larger packets than the sandbox sends are no problem
		if h.MTUBytes < l.MTUBytes {
			severity = SeverityBlocks
		}
		diffs = append(diffs, Difference{CodeMTU, severity, l.Name, fmt.Sprint(l.MTUBytes), fmt.Sprint(h.MTUBytes),
			fmt.Sprintf("ip link set %s mtu %d", l.hostName(), l.MTUBytes)})
	}
	if (l.GSOMaxSizeBytes > 0) != (h.GSOMaxSizeBytes > 0) {
		// The sandbox's mode is kept in any case: a saved connection depends on it.
		diffs = append(diffs, Difference{CodeGSOMode, SeverityNote, l.Name, onOff(l.GSOMaxSizeBytes > 0), onOff(h.GSOMaxSizeBytes > 0),
			fmt.Sprintf("ethtool -K %s gso %s, for the same speed", l.hostName(), onOff(l.GSOMaxSizeBytes > 0))})
	}
	for _, a := range l.Addresses {
		if !slices.Contains(h.Addresses, a) && !a.Addr().IsLinkLocalUnicast() {
			diffs = append(diffs, Difference{Code: CodeAddressMissing, Severity: SeverityAddress, Subject: l.Name, Sandbox: a.String(),
				Remedy: fmt.Sprintf("ip addr add %v dev %s, with the link down until the move", a, l.hostName())})
		}
	}
	for _, a := range h.Addresses {
		if !slices.Contains(l.Addresses, a) && !a.Addr().IsLinkLocalUnicast() {
			diffs = append(diffs, Difference{Code: CodeAddressExtra, Severity: SeverityAddress, Subject: l.Name, Host: a.String(),
				Remedy: fmt.Sprintf("ip addr del %v dev %s, or restore under the host's addresses", a, l.hostName())})
		}
	}
	return diffs
}

// compareRoutes looks for routes of the sandbox that the host lacks. An
// interface that is down has no routes, and the takeover does not need them.
func compareRoutes(name string, sandbox, host []Route) []Difference {
	var diffs []Difference
	for _, r := range sandbox {
		same := func(h Route) bool { return h.Destination == r.Destination && h.Gateway == r.Gateway }
		if slices.ContainsFunc(host, same) || r.Destination.Addr().IsLinkLocalUnicast() {
			continue
		}
		diffs = append(diffs, Difference{Code: CodeRouteMissing, Severity: SeverityNote, Subject: name, Sandbox: r.String(),
			Remedy: fmt.Sprintf("make sure that the link leads there (ip route add %v dev %s)", r, name)})
	}
	return diffs
}

func (id *Identity) routesOf(nic int32) []Route {
	var routes []Route
	for _, r := range id.Routes {
		if r.NIC == nic {
			routes = append(routes, r)
		}
	}
	return routes
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// Relocate returns the identity of the sandbox under the host's addresses: names,
// interface ids, MTU and segmentation stay as saved connections need them, hardware
// addresses, addresses, routes and neighbours become the host's. A host's interface that
// is down has no routes: it gets those that it will have. Every link of the sandbox must
// exist on the host.
func (id *Identity) Relocate(host *Identity) (*Identity, error) {
	out := &Identity{Loopback: slices.Clone(id.Loopback), Unsupported: slices.Clone(host.Unsupported)}
	nics := map[int32]int32{LoopbackNIC: LoopbackNIC}
	for _, l := range id.Links {
		h := host.linkByName(l.hostName())
		if h == nil {
			return nil, fmt.Errorf("%w: %s", ErrLinkMissing, l.Name)
		}
		nics[h.NIC] = l.NIC
		l.MAC, l.Addresses = h.MAC, slices.Clone(h.Addresses)
		out.Links = append(out.Links, l)
	}
	for _, r := range host.Routes {
		if nic, ok := nics[r.NIC]; ok {
			r.NIC = nic
			out.Routes = append(out.Routes, r)
		}
	}
	for _, l := range out.Links {
		if h := host.linkByName(l.hostName()); !h.Up && len(host.routesOf(h.NIC)) == 0 {
			out.Routes = append(out.Routes, id.routesUnder(l)...)
		}
	}
	for _, n := range host.Neighbours {
		if nic, ok := nics[n.NIC]; ok {
			n.NIC = nic
			out.Neighbours = append(out.Neighbours, n)
		}
	}
	return out, out.Validate()
}

// routesUnder returns the routes that a link, which has new addresses and is down, will have when it is up: those to its own networks, and
// the saved ones by gateways there.
func (id *Identity) routesUnder(l Link) []Route {
	var routes []Route
	for _, a := range l.Addresses {
		routes = append(routes, Route{NIC: l.NIC, Destination: a.Masked()})
	}
	for _, r := range id.routesOf(l.NIC) {
		reached := func(a netip.Prefix) bool { return r.Gateway.IsValid() && a.Masked().Contains(r.Gateway) }
		if slices.ContainsFunc(l.Addresses, reached) {
			r.Source = netip.Addr{}
			routes = append(routes, r)
		}
	}
	return routes
}

// SameAddresses says whether both identities have exactly the same addresses on
// the same interfaces, so that all connections can live on.
func (id *Identity) SameAddresses(other *Identity) bool {
	return slices.EqualFunc(id.Links, other.Links, func(a, b Link) bool {
		return a.NIC == b.NIC && slices.Equal(sortedPrefixes(a.Addresses), sortedPrefixes(b.Addresses))
	})
}

func sortedPrefixes(p []netip.Prefix) []netip.Prefix {
	return slices.SortedFunc(slices.Values(p), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}
