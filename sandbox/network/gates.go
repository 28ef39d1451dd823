package network

import (
	"errors"
	"fmt"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Gates are the gates of all links of a sandbox, in the identity's order. They
// are meant to be moved together. A sandbox without links has none, and all
// operations do nothing.
type Gates struct {
	list []*Gate

	// clock is that of the stack that Configure built. A restore moves the
	// interfaces into the loaded stack, which has a clock of its own, but parts of
	// them keep this one.
	clock tcpip.Clock
}

// All returns the gates themselves.
func (gs *Gates) All() []*Gate { return slices.Clone(gs.list) }

// Shut closes every gate. See Gate.Shut.
func (gs *Gates) Shut(m Mode) error {
	for _, g := range gs.list {
		if err := g.Shut(m); err != nil {
			return err
		}
	}
	return nil
}

// Hold shuts every gate and keeps what comes.
func (gs *Gates) Hold() {
	for _, g := range gs.list {
		g.Hold()
	}
}

// Open opens every gate and returns how many held frames passed.
func (gs *Gates) Open() int {
	n := 0
	for _, g := range gs.list {
		n += g.Open()
	}
	return n
}

// Discard forgets what the gates hold.
func (gs *Gates) Discard() {
	for _, g := range gs.list {
		g.Discard()
	}
}

// Announce announces the addresses of every link. It goes on after an error.
func (gs *Gates) Announce() error {
	var errs []error
	for _, g := range gs.list {
		errs = append(errs, g.Announce())
	}
	return errors.Join(errs...)
}

// Frames returns what the gates held since the last call. See Gate.Frames.
func (gs *Gates) Frames(d Direction) []Frame {
	var frames []Frame
	for _, g := range gs.list {
		frames = append(frames, g.Frames(d)...)
	}
	return frames
}

// Inject hands each frame to the gate of its interface. See Gate.Inject.
func (gs *Gates) Inject(frames []Frame) error {
	byNIC := map[tcpip.NICID][]Frame{}
	for _, f := range frames {
		byNIC[tcpip.NICID(f.NIC)] = append(byNIC[tcpip.NICID(f.NIC)], f)
	}
	for _, g := range gs.list {
		if err := g.Inject(byNIC[g.nic]); err != nil {
			return err
		}
		delete(byNIC, g.nic)
	}
	for nic, lost := range byNIC {
		return fmt.Errorf("%w: %d frames for unknown interface %d", ErrInvalidFrame, len(lost), nic)
	}
	return nil
}

// Stats adds up the counters of all gates.
func (gs *Gates) Stats() Stats {
	var sum Stats
	for _, g := range gs.list {
		s := g.Stats()
		sum.DeliveredPackets += s.DeliveredPackets
		sum.SentPackets += s.SentPackets
		sum.OverflowInPackets += s.OverflowInPackets
		sum.OverflowOutPackets += s.OverflowOutPackets
		sum.DiscardedInPackets += s.DiscardedInPackets
		sum.DiscardedOutPackets += s.DiscardedOutPackets
		sum.HeldPackets += s.HeldPackets
		sum.HeldBytes += s.HeldBytes
	}
	return sum
}
