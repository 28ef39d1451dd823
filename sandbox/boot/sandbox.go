package boot

import (
	"fmt"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fdimport"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
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

// build makes a new kernel with the first container's process in it, not yet
// running. The error names the part of the spec that is at fault.
func (s *Sandbox) build(files *Files) error {
	// For the first process. What is made too late is there for the second.
	go s.prewarmOne()
	packetFDs, err := releaseAll(files.Packet)
	if err != nil {
		return err
	}
	s.kernel, s.gates, err = newKernel(s.platform, s.mf, s.cfg, packetFDs)
	if err != nil {
		return err
	}
	args, err := newProcessArgs(s.kernel, RootContainer, s.cfg.Spec.Process)
	if err != nil {
		return err
	}
	goferFDs, err := releaseAll(files.Gofer)
	if err != nil {
		return err
	}
	if err := s.mountAll(&args, s.cfg.Spec.Linux, s.cfg.Mounts, goferFDs); err != nil {
		return err
	}
	return s.createFirstProcess(s.first, &args, s.cfg.Spec.Process, files.Stdio, files.Preserved)
}

// mountAll builds a container's mount namespace into args, as root whoever the
// container's user is. It owns goferFDs.
func (s *Sandbox) mountAll(args *kernel.CreateProcessArgs, linux *specs.Linux, list *mounts.List, goferFDs []int) (err error) {
	rootArgs := *args
	rootArgs.Credentials = auth.NewRootCredentials(args.Credentials.UserNamespace)
	rootArgs.WorkingDirectory = "/"
	m := &mounter{
		k: s.kernel, container: args.ContainerID, creds: rootArgs.Credentials,
		ctx: rootArgs.NewContext(s.kernel), goferFDs: goferFDs,
	}
	defer func() {
		for _, fd := range m.goferFDs {
			unix.Close(fd)
		}
	}()
	ns, err := m.mountAll(list)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ns.DecRef(m.ctx)
		}
	}()
	args.MountNamespace = ns
	if linux != nil {
		if err := m.maskPaths(ns, linux.MaskedPaths); err != nil {
			return err
		}
		if err := m.protectPaths(ns, linux.ReadonlyPaths); err != nil {
			return err
		}
	}
	return m.makeWorkingDirectory(ns, args.WorkingDirectory)
}

// createFirstProcess creates a container's first process with its streams. It
// owns the files, and the mount namespace of args.
func (s *Sandbox) createFirstProcess(c *container, args *kernel.CreateProcessArgs, process *specs.Process, stdio, preserved []*os.File) error {
	ctx := args.NewContext(s.kernel)
	created := false
	defer func() {
		if !created {
			args.MountNamespace.DecRef(ctx)
		}
	}()
	if err := c.rememberTerminal(process.Terminal, stdio); err != nil {
		return err
	}
	table, tty, err := s.importStreams(args, c.name, stdio, preserved, process.Terminal)
	if err != nil {
		return err
	}
	defer table.DecRef(ctx)
	args.FDTable = table
	if tty != nil {
		args.TTY = tty
	}

	args.Envv, err = user.MaybeAddExecUserHome(ctx, args.MountNamespace, args.Credentials.RealKUID, args.Envv)
	if err != nil {
		return fmt.Errorf("look up home directory: %w", err)
	}
	args.Filename, err = user.ResolveExecutablePath(ctx, args)
	if err != nil {
		return fmt.Errorf("process.args: find %q in the container: %w", args.Argv[0], err)
	}
	created = true // it takes the namespace, even where it fails
	tg, _, err := s.kernel.CreateProcess(*args)
	if err != nil {
		return fmt.Errorf("process.args: execute %q: %w", args.Filename, err)
	}
	c.setProcess(tg)
	return nil
}

// importStreams puts files into a new descriptor table: one terminal for 0, 1
// and 2, or three streams, then preserved from 3 on. It owns the files.
func (s *Sandbox) importStreams(args *kernel.CreateProcessArgs, session string, stdio, preserved []*os.File, terminal bool) (*kernel.FDTable, *kernel.TTY, error) {
	ctx := args.NewContext(s.kernel)
	hostFDs := make(map[int]*fd.FD)
	for i, f := range append(append([]*os.File{}, stdio...), preserved...) {
		n := i
		if terminal && i >= len(stdio) {
			n = 3 + i - len(stdio)
		}
		hostFD, err := s.streams.give(session, f, false)
		if err != nil {
			return nil, nil, err
		}
		hostFDs[n] = fd.New(hostFD)
		if err := s.streams.hold(session, n, hostFD); err != nil {
			return nil, nil, err
		}
	}
	if terminal {
		// One terminal serves all three; the copies only have to exist.
		for n := 1; n <= 2; n++ {
			dup, err := unix.Dup(hostFDs[0].FD())
			if err != nil {
				return nil, nil, err
			}
			hostFDs[n] = fd.New(dup)
		}
	}
	table := s.kernel.NewFDTable()
	tty, err := fdimport.Import(ctx, table, hostFDs, fdimport.ImportOptions{
		Console:       terminal,
		Restorable:    true,
		UID:           args.Credentials.EffectiveKUID,
		GID:           args.Credentials.EffectiveKGID,
		ContainerName: session,
		SupportTTYs:   true,
	})
	for _, hostFD := range hostFDs {
		hostFD.Close() // released ones are not closed
	}
	if err != nil {
		table.DecRef(ctx)
		return nil, nil, fmt.Errorf("import streams: %w", err)
	}
	if tty == nil {
		return table, nil, nil
	}
	return table, tty.TTY(), nil
}

// Loading is what Hooks.Load gets to load a saved kernel.
type Loading struct {
	Platform   platform.Platform
	MemoryFile *pgalloc.MemoryFile
	// Stack is configured for this host; it replaces the saved configuration.
	Stack *netstack.Stack
	// HostFDs has a descriptor for every host resource the saved kernel may
	// ask for: gofer mounts and streams. The kernel owns them.
	HostFDs map[checkpoint.ResourceID]int
	// Files are Config.Files.Load, owned by Load.
	Files []*os.File
	// Charge allocates memory for a range of the memory file, in bytes, so that it is charged to this process and
	// not to whoever places pages there; nil where that makes no difference.
	Charge func(start, end uint64) error
	// Gates hold what arrives until the sandbox is started.
	Gates *network.Gates
	// Trap makes the kernel's own accesses wait for memory that comes after the start;
	// nil where it cannot. It is owned by Load.
	Trap *faults.Trap
	// Arriving must be called before the kernel could run, if there is a Trap and memory is
	// missing: await returns when pages [start, end) are there.
	Arriving func(await func(start, end uint64))
	// Loaded must be called once the last page has arrived, if the kernel could
	// run before that.
	Loaded func()
	// Abandon ends the process, unless the sandbox has been started. Whoever
	// waits to start it is gone.
	Abandon func()
}

// load makes a kernel out of a saved one. Its tasks do not run yet.
func (s *Sandbox) load(files *Files, trap *faults.Trap, load func(*Loading) (*kernel.Kernel, error)) error {
	packetFDs, err := releaseAll(files.Packet)
	if err != nil {
		return err
	}
	// The saved kernel brings its own clock; this one only has to be there.
	fresh, err := network.NewStack(tcpip.NewStdClock(), &uniqueIDs{})
	if err != nil {
		return err
	}
	if s.gates, err = network.Configure(fresh.Stack, s.cfg.Network, packetFDs); err != nil {
		return err
	}
	// What comes before the start is for the loaded stack, not for this one.
	s.gates.Hold()
	restore := s.cfg.Restore
	hostFDs, err := s.reconnect(files)
	if err != nil {
		return err
	}
	s.lastExec = lastExec(restore.Sessions)
	s.platform.SetMapUnit(loadingMapUnit)
	defer s.prewarm(restore.Processes)()
	var charge func(start, end uint64) error
	if restore.Charge {
		charge = s.charge
	}
	s.kernel, err = load(&Loading{
		Charge: charge, Platform: s.platform, MemoryFile: s.mf, Stack: fresh, HostFDs: hostFDs, Files: files.Load, Gates: s.gates,
		Trap: trap, Arriving: s.beginArriving,
		Loaded:  s.endArriving,
		Abandon: s.abandon,
	})
	if err != nil {
		return err
	}
	if err := s.findContainers(); err != nil {
		return err
	}
	s.recallExecs(restore.Sessions)
	return nil
}

// charge allocates memory for a range of the memory file.
func (s *Sandbox) charge(start, end uint64) error {
	err := unix.Fallocate(int(s.memory.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(start), int64(end-start))
	if err != nil {
		return fmt.Errorf("allocate sandbox memory: %w", err)
	}
	return nil
}

// recallExecs makes the processes that exec started before the save known again.
func (s *Sandbox) recallExecs(sessions []Session) {
	for _, session := range sessions {
		if session.PID == 0 {
			continue
		}
		if tg := s.kernel.RootPIDNamespace().ThreadGroupWithID(kernel.ThreadID(session.PID)); tg != nil {
			s.remember(processKey{RootContainer, session.PID}, execed{tg, session.Name})
		}
	}
}

// maxPrewarmed bounds the address spaces that are made ahead, each of which is a process of the host.
const maxPrewarmed = 256

// prewarm makes address spaces for the processes of a kernel that is being loaded, while a standby waits for it or beside the loading.
// finish gives back what was not used.
func (s *Sandbox) prewarm(processes int) (finish func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.platform.Prewarm(min(processes, maxPrewarmed)); err != nil {
			log.Warningf("%v", err) // the kernel then makes its own, or fails with a better reason
		}
	}()
	return func() {
		<-done
		s.platform.DropPrewarmed()
	}
}

// SetResets says which connections end with the restore, whose peers are told at the start.
func (s *Sandbox) SetResets(fates []network.Fate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Restore == nil || s.Phase() != PhaseCreated {
		return fmt.Errorf("connections end with a restore that is not started: container is %s", s.Phase())
	}
	s.cfg.Restore.Resets = fates
	return nil
}

// resets returns them.
func (s *Sandbox) resets() []network.Fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Restore.Resets
}

// prewarmOne makes an address space beside the kernel that will need it.
func (s *Sandbox) prewarmOne() {
	if err := s.platform.Prewarm(1); err != nil {
		log.Warningf("%v", err) // the kernel then makes its own, or fails with a better reason
	}
}

// abandon ends a sandbox that was never started.
func (s *Sandbox) abandon() {
	if s.Enter(PhaseCreated, PhaseStopped) {
		os.Exit(128 + int(unix.SIGKILL))
	}
}

// uniqueIDs numbers what a stack that no kernel owns yet needs numbered.
type uniqueIDs struct{ last atomic.Uint64 }

// UniqueID implements uniqueid.Provider.
func (u *uniqueIDs) UniqueID() uint64 { return u.last.Add(1) }

// releaseAll gives up files and returns their descriptors, owned by the
// caller.
func releaseAll(files []*os.File) ([]int, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		n, err := release(f)
		if err != nil {
			return nil, err
		}
		fds[i] = n
	}
	return fds, nil
}
