package migrate

import (
	"runtime"

	"github.com/sbxmigrate/sbxmigrate/migrate/convergence"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// Mode is how memory moves.
type Mode string

// The modes.
const (
	PreCopy     Mode = "precopy"  // in rounds while the sandbox runs, the rest in the stop
	PostCopy    Mode = "postcopy" // after the start
	Hybrid      Mode = "hybrid"   // once while the sandbox runs, the rest after the start
	StopAndCopy Mode = "stop"     // all of it in the stop
)

// MayLeavePages says whether pages may be missing when the sandbox starts.
func (m Mode) MayLeavePages() bool { return m == PostCopy || m == Hybrid }

// Options say where a sandbox is to move, and how.
type Options struct {
	Root     sandbox.Root
	Identity hostkey.Identity
	Peer     hostkey.Peer // who must answer at Address
	Address  string       // host:port of its agent
	// Journals is the directory of this host's journals.
	Journals string

	Bundle string // the bundle's directory on the target; the same as here
	// Further is the same of the containers besides the first, by name.
	Further map[string]string
	// SendBundle sends the bundle along, to an agent that takes one.
	SendBundle bool
	Policy     restoreenv.Policy // of the target's plan; strict
	Map        map[string]string // of the target's plan

	Mode            Mode // PreCopy
	Budget          convergence.Budget
	DataConnections int        // 1 to wire.MaxDataConnections; as many as CPUs, and at most 4
	Codec           wire.Codec // CodecRaw
	BytesPerSecond  float64    // bandwidth cap; none
	// FullPriority lets the copying compete with the sandbox for CPUs. Otherwise this process is nice during the rounds.
	FullPriority bool
	// Verify compares all memory with what was sent, in the stop.
	Verify bool
	// Canceller, if not nil, can cancel the migration.
	Canceller *Canceller
	// OnEvent, if not nil, is told how it goes.
	OnEvent func(Event)
}

// defaultLanes is the most data connections that a migration takes by itself.
const defaultLanes = 4

func (o Options) withDefaults() Options {
	if o.Mode == "" {
		o.Mode = PreCopy
	}
	if o.DataConnections == 0 {
		o.DataConnections = min(runtime.NumCPU(), defaultLanes)
	}
	if o.Policy == "" {
		o.Policy = restoreenv.PolicyStrict
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.Canceller == nil {
		o.Canceller = new(Canceller)
	}
	return o
}

// wireMode is the mode that the target is told: what may come of it.
func (o Options) wireMode() Mode {
	if o.Mode == PreCopy && o.Budget.OnTimeout == convergence.PostCopy {
		return Hybrid
	}
	return o.Mode
}
