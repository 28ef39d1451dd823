package network

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Bounds of an identity. They are far above what a sandbox has, and low enough
// that a hostile image cannot make us allocate much.
const (
	maxIdentityBytes = 1 << 20
	maxLinks         = 64
	maxAddresses     = 256 // per link
	maxRoutes        = 4096
	maxNeighbours    = 4096
	maxNotes         = 256
	maxNameBytes     = 15 // IFNAMSIZ without the terminating zero
	maxMTUBytes      = 65535
	maxGSOBytes      = 512 << 10
	minMTUBytes      = 68
)

// LoopbackNIC is the interface id of lo. The links of an identity follow it.
const LoopbackNIC = 1

// Identity is what the guest sees of its network, and the host facts that a
// saved connection depends on. It is plain data and travels in images. The zero
// Identity is a sandbox with a loopback interface only.
type Identity struct {
	// Links are the interfaces other than lo, ordered by NIC.
	Links []Link `json:"links,omitempty"`

	// Routes are ordered by decreasing prefix length, then by metric.
	Routes []Route `json:"routes,omitempty"`

	// Loopback are addresses of lo beyond 127.0.0.1 and ::1, set by the guest.
	Loopback []netip.Prefix `json:"loopback,omitempty"`

	// Neighbours are the permanent ones; learnt ones are learnt again.
	Neighbours []Neighbour `json:"neighbours,omitempty"`

	// Unsupported says, a line each, what the namespace has and netstack cannot
	// take over. It is information only.
	Unsupported []string `json:"unsupported,omitempty"`
}

// Link is one interface of the sandbox.
type Link struct {
	// Name is the interface's name inside the sandbox.
	Name string `json:"name"`

	// HostName is its name in the host's namespace, where the guest has renamed it;
	// empty if it is the same.
	HostName string `json:"hostName,omitempty"`

	// NIC is netstack's interface id: LoopbackNIC+1 for the first link, and so on.
	NIC int32 `json:"nic"`

	// MAC is the hardware address in colon notation; empty on a device without one.
	MAC string `json:"mac,omitempty"`

	// MTUBytes is the largest network-layer packet.
	MTUBytes int `json:"mtuBytes"`

	// Up says whether the interface was up when it was probed.
	Up bool `json:"up"`

	// Addresses are the interface's addresses with their on-link prefix.
	Addresses []netip.Prefix `json:"addresses,omitempty"`

	// GSOMaxSizeBytes is the largest packet that the host segments for us; zero
	// means no host segmentation.
	GSOMaxSizeBytes uint32 `json:"gsoMaxSizeBytes,omitempty"`
}

// Route is one entry of the routing table.
type Route struct {
	NIC         int32        `json:"nic"`
	Destination netip.Prefix `json:"destination"`

	// Gateway is the zero Addr for an on-link route.
	Gateway netip.Addr `json:"gateway,omitzero"`

	// Source is the preferred source address, or the zero Addr.
	Source netip.Addr `json:"source,omitzero"`

	// MTUBytes is the route's own MTU; zero means that of the link.
	MTUBytes uint32 `json:"mtuBytes,omitempty"`
}

// String gives the route as ip-route(8) would.
func (r Route) String() string {
	s := r.Destination.String()
	if r.Destination.Bits() == 0 {
		s = "default"
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	return s
}

// Neighbour is a permanent neighbour entry.
type Neighbour struct {
	NIC     int32      `json:"nic"`
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
}

// ParseIdentity decodes and validates an identity. Unknown fields are accepted,
// so that an older build can say what differs instead of failing to read.
func ParseIdentity(data []byte) (*Identity, error) {
	if len(data) > maxIdentityBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidIdentity, len(data), maxIdentityBytes)
	}
	id := &Identity{}
	if err := json.Unmarshal(data, id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidIdentity, err)
	}
	if err := id.Validate(); err != nil {
		return nil, err
	}
	return id, nil
}

// Validate checks the identity against its own rules. Configure, Open and
// ParseIdentity refuse an identity that fails it.
func (id *Identity) Validate() error {
	if len(id.Links) > maxLinks || len(id.Routes) > maxRoutes ||
		len(id.Neighbours) > maxNeighbours || len(id.Unsupported) > maxNotes {
		return fmt.Errorf("%w: too many entries", ErrInvalidIdentity)
	}
	names := map[string]bool{"lo": true}
	for i := range id.Links {
		l := &id.Links[i]
		// Netstack hands out ids by counting, so a gap could never be restored.
		if want := int32(LoopbackNIC + 1 + i); l.NIC != want {
			return fmt.Errorf("%w: link %q has id %d, want %d", ErrInvalidIdentity, l.Name, l.NIC, want)
		}
		if names[l.Name] {
			return fmt.Errorf("%w: two links named %q", ErrInvalidIdentity, l.Name)
		}
		names[l.Name] = true
		if err := l.validate(); err != nil {
			return fmt.Errorf("%w: link %q: %w", ErrInvalidIdentity, l.Name, err)
		}
	}
	if err := validateAddresses(id.Loopback); err != nil {
		return fmt.Errorf("%w: loopback: %w", ErrInvalidIdentity, err)
	}
	for _, r := range id.Routes {
		if err := id.validateRoute(r); err != nil {
			return fmt.Errorf("%w: route %v: %w", ErrInvalidIdentity, r, err)
		}
	}
	for _, n := range id.Neighbours {
		if id.link(n.NIC) == nil || !plainAddr(n.Address) {
			return fmt.Errorf("%w: neighbour %v on interface %d", ErrInvalidIdentity, n.Address, n.NIC)
		}
		if hw, err := net.ParseMAC(n.MAC); err != nil || len(hw) != 6 {
			return fmt.Errorf("%w: neighbour %v has hardware address %q", ErrInvalidIdentity, n.Address, n.MAC)
		}
	}
	return nil
}

func (l *Link) hostName() string { return cmp.Or(l.HostName, l.Name) }

func (l *Link) validate() error {
	if err := validateName(l.Name); err != nil {
		return err
	}
	if err := validateName(l.hostName()); err != nil {
		return err
	}
	if l.MTUBytes < minMTUBytes || l.MTUBytes > maxMTUBytes {
		return fmt.Errorf("mtu %d outside %d..%d", l.MTUBytes, minMTUBytes, maxMTUBytes)
	}
	if l.GSOMaxSizeBytes > maxGSOBytes {
		return fmt.Errorf("gso size %d above %d", l.GSOMaxSizeBytes, maxGSOBytes)
	}
	if l.MAC != "" {
		if hw, err := net.ParseMAC(l.MAC); err != nil || len(hw) != 6 {
			return fmt.Errorf("hardware address %q", l.MAC)
		}
	}
	return validateAddresses(l.Addresses)
}

func validateAddresses(addrs []netip.Prefix) error {
	if len(addrs) > maxAddresses {
		return fmt.Errorf("%d addresses, at most %d", len(addrs), maxAddresses)
	}
	seen := make(map[netip.Prefix]bool, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || !plainAddr(a.Addr()) || a.Addr().IsUnspecified() || seen[a] {
			return fmt.Errorf("address %v", a)
		}
		seen[a] = true
	}
	return nil
}

// validateName applies the kernel's own rules: a name becomes part of a path
// below /proc/sys/net.
func validateName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxNameBytes {
		return fmt.Errorf("interface name %q", name)
	}
	for _, c := range []byte(name) {
		if c == '/' || c == ':' || c <= ' ' || c > '~' {
			return fmt.Errorf("interface name %q", name)
		}
	}
	return nil
}

func (id *Identity) validateRoute(r Route) error {
	if r.NIC != LoopbackNIC && id.link(r.NIC) == nil {
		return fmt.Errorf("unknown interface %d", r.NIC)
	}
	if !r.Destination.IsValid() || !plainAddr(r.Destination.Addr()) || r.Destination != r.Destination.Masked() {
		return fmt.Errorf("destination %v", r.Destination)
	}
	for _, a := range []netip.Addr{r.Gateway, r.Source} {
		if a.IsValid() && (!plainAddr(a) || a.Is4() != r.Destination.Addr().Is4()) {
			return fmt.Errorf("address %v of another family", a)
		}
	}
	if r.MTUBytes > maxMTUBytes {
		return fmt.Errorf("mtu %d", r.MTUBytes)
	}
	return nil
}

// plainAddr says whether a is an IPv4 or IPv6 address without a zone, and not an
// IPv4 address in IPv6 clothes.
func plainAddr(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6()
}

// link returns the link with interface id nic, or nil.
func (id *Identity) link(nic int32) *Link {
	i := int(nic) - LoopbackNIC - 1
	if i < 0 || i >= len(id.Links) {
		return nil
	}
	return &id.Links[i]
}

// linkByName returns the link that the host calls name, or nil.
func (id *Identity) linkByName(name string) *Link {
	for i := range id.Links {
		if id.Links[i].hostName() == name {
			return &id.Links[i]
		}
	}
	return nil
}

// HasAddress says whether a is one of the sandbox's addresses, loopback included.
func (id *Identity) HasAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return true
	}
	same := func(p netip.Prefix) bool { return p.Addr() == a }
	if slices.ContainsFunc(id.Loopback, same) {
		return true
	}
	for i := range id.Links {
		if slices.ContainsFunc(id.Links[i].Addresses, same) {
			return true
		}
	}
	return false
}
