package network

import (
	"context"

	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
)

// The kernel's state reaches a gate through every route of a connection. What is
// saved is only enough to stand in for it: on load the stack takes the new
// stack's interfaces, with gates of their own, and a loaded gate is a dead end.
// Held frames are not saved; Frames carries them.

const (
	gateStateName    = "sbxmigrate/sandbox/network.Gate"
	creatorStateName = "sbxmigrate/sandbox/network.StackCreator"
)

func init() {
	// The state package finds types by name before any of our code runs.
	state.Register((*Gate)(nil))
	state.Register((*StackCreator)(nil))
}

// StateTypeName implements state.Type.
func (g *Gate) StateTypeName() string { return gateStateName }

// StateFields implements state.Type.
func (g *Gate) StateFields() []string { return []string{"name", "nic", "mac", "mtuBytes"} }

// StateSave implements state.SaverLoader. It also seals a shut gate.
func (g *Gate) StateSave(sink state.Sink) {
	g.seal()
	sink.Save(0, &g.name)
	sink.Save(1, &g.nic)
	sink.Save(2, &g.mac)
	sink.Save(3, &g.mtuBytes)
}

// StateLoad implements state.SaverLoader.
func (g *Gate) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &g.name)
	source.Load(1, &g.nic)
	source.Load(2, &g.mac)
	source.Load(3, &g.mtuBytes)
	source.AfterLoad(func() {
		g.mode = ModeDrop
		g.limits = Limits{}.withDefaults()
		g.Endpoint.Init(channel.New(0, g.mtuBytes, g.mac), g)
	})
}

// StateTypeName implements state.Type.
func (c *StackCreator) StateTypeName() string { return creatorStateName }

// StateFields implements state.Type.
func (c *StackCreator) StateFields() []string { return []string{"clock", "ids"} }

// StateSave implements state.SaverLoader.
func (c *StackCreator) StateSave(sink state.Sink) {
	sink.Save(0, &c.clock)
	sink.Save(1, &c.ids)
}

// StateLoad implements state.SaverLoader.
func (c *StackCreator) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &c.clock)
	source.Load(1, &c.ids)
}
