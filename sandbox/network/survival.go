package network

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Fate says whether a connection lives on under another identity, and why.
type Fate struct {
	Connection Connection `json:"connection"`
	Kept       bool       `json:"kept"`
	Reason     string     `json:"reason"`

	// Reset says that a peer is left behind, which deserves a reset (see
	// SendResets), or it would wait for its time-out.
	Reset bool `json:"reset,omitempty"`
}

// String is one line for reports.
func (f Fate) String() string {
	s := f.Connection.String()
	if f.Kept {
		return s + ": kept: " + f.Reason
	}
	return s + ": closed: " + f.Reason
}

// Survival says connection by connection what a restore under id does.
func Survival(conns []Connection, id *Identity) []Fate {
	fates := make([]Fate, 0, len(conns))
	for _, c := range conns {
		fates = append(fates, fate(c, id))
	}
	return fates
}

func fate(c Connection, id *Identity) Fate {
	local := c.Local.Addr()
	switch {
	case local.IsUnspecified():
		return Fate{Connection: c, Kept: true, Reason: "on every address"}
	case local.IsMulticast():
		return Fate{Connection: c, Kept: true, Reason: "on a multicast group"}
	case !id.HasAddress(local):
		return Fate{
			Connection: c,
			Reason:     "local address " + local.String() + " is not there",
			Reset:      c.Protocol == ProtocolTCP && c.SendNext != 0 && peerWaits(c.State),
		}
	case c.Remote.IsValid() && !id.reaches(c.Remote.Addr()):
		return Fate{Connection: c, Reason: "no route to " + c.Remote.Addr().String()}
	case c.Remote.IsValid():
		return Fate{Connection: c, Kept: true, Reason: "same local address"}
	}
	return Fate{Connection: c, Kept: true, Reason: "local address is there"}
}

// peerWaits says whether the peer still believes in the connection.
func peerWaits(state string) bool {
	switch state {
	case tcp.StateTimeWait.String(), tcp.StateClose.String(), tcp.StateError.String(), tcp.StateSynSent.String():
		return false
	}
	return true
}

// reaches says whether the identity has a route to a.
func (id *Identity) reaches(a netip.Addr) bool {
	if id.HasAddress(a) {
		return true
	}
	for _, r := range id.Routes {
		if r.Destination.Contains(a) {
			return true
		}
	}
	return false
}
