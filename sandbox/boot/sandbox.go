package boot

import (
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Sandbox is the one sandbox of this process.
type Sandbox struct {
	cfg *Config

	platform *dirty.Tracker
	memory   *os.File // a descriptor of its own for the memory file
	mf       *pgalloc.MemoryFile
	kernel   *kernel.Kernel
	gates    *network.Gates
	streams  streams
	// allowed is where the process may run, nil where that is not known. The process cannot ask any more once it is confined.
	allowed *spare.CPUs

	phase atomic.Pointer[Phase]
	// arriving: memory is still to come, see arriving.go.
	arriving atomic.Bool
	started  chan struct{} // closed once the tasks run

	// first is the container that the sandbox was made for and ends with.
	first *container

	// execMu is held shared while an exec, or the making or starting of a container,
	// changes the kernel; a save excludes it.
	execMu sync.RWMutex
	// makeMu is held while a further container is being made.
	makeMu sync.Mutex

	mu       sync.Mutex
	lastExec int // guarded by mu
	// execs are the processes that exec started and nobody has waited for yet.
	// Guarded by mu.
	execs map[processKey]execed
	// further are the containers besides the first, by name. Guarded by mu.
	further map[string]*container
	// gone are those that were destroyed, while something inside refers to their
	// files. Guarded by mu.
	gone []*container
}

// processKey names a process by its container and its PID there.
type processKey struct {
	container string
	pid       int32
}

// execed is a process that exec started. The kernel forgets a PID when the
// process is reaped, which may be before anybody waits for it here.
type execed struct {
	tg      *kernel.ThreadGroup
	session string
}

// execPatience is how long a save waits for an exec that is being started.
const execPatience = 5 * time.Second

// Phase is where a sandbox is in its life.
type Phase string

// The phases, named as in the runtime specification where it has a name.
const (
	PhaseCreated Phase = "created"
	PhaseRunning Phase = "running"
	PhasePaused  Phase = "paused"
	PhaseSaving  Phase = "saving" // stopped for a checkpoint or a migration
	PhaseStopped Phase = "stopped"

	// On the way from one to the next: nothing else may begin.
	phaseStarting Phase = "starting"
	phasePausing  Phase = "pausing"
)

// Kernel returns the sandbox's kernel.
func (s *Sandbox) Kernel() *kernel.Kernel { return s.kernel }

// MemoryFile returns the allocator of all of the sandbox's memory.
func (s *Sandbox) MemoryFile() *pgalloc.MemoryFile { return s.mf }

// Memory returns the memfd behind MemoryFile. The sandbox keeps it.
func (s *Sandbox) Memory() *os.File { return s.memory }

// Tracker tracks the pages that the guest dirties.
func (s *Sandbox) Tracker() *dirty.Tracker { return s.platform }

// Network returns the root network stack and its gates.
func (s *Sandbox) Network() (*stack.Stack, *network.Gates) {
	return s.kernel.RootNetworkNamespace().Stack().(*netstack.Stack).Stack, s.gates
}

// BootedNetwork returns the identity that the network was configured with.
func (s *Sandbox) BootedNetwork() *network.Identity { return s.cfg.Network }

// Phase returns where the sandbox is in its life.
func (s *Sandbox) Phase() Phase { return *s.phase.Load() }

// Enter moves from one phase to another and reports whether it did: whether
// from was the phase, and, for PhaseSaving, no exec is just being started.
func (s *Sandbox) Enter(from, to Phase) bool {
	if to == PhaseSaving {
		for deadline := time.Now().Add(execPatience); !s.execMu.TryLock(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return false
			}
		}
		defer s.execMu.Unlock()
	}
	now := s.phase.Load()
	return *now == from && s.phase.CompareAndSwap(now, &to)
}

// Sessions returns the host streams that the kernel refers to.
func (s *Sandbox) Sessions() []Session {
	s.mu.Lock()
	execs := maps.Clone(s.execs)
	s.mu.Unlock()
	pids := make(map[string]int32)
	for key, e := range execs {
		// Terminals of execs in further containers are not made anew: their streams lead nowhere.
		if key.container == RootContainer && e.tg.Leader().ExitState() < kernel.TaskExitInitiated {
			pids[e.session] = key.pid
		}
	}
	return s.streams.sessions(pids)
}

// Terminal returns the state of the first container's terminal, nil if it has
// none.
func (s *Sandbox) Terminal() *TerminalState { return s.first.terminal() }

// newSession returns the name for the streams of one more exec. No two in a
// kernel's whole life have the same.
func (s *Sandbox) newSession() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastExec++
	return execSession(s.lastExec)
}

// maxPrewarmed bounds the address spaces that are made ahead, each of which is a process of the host.
const maxPrewarmed = 256
