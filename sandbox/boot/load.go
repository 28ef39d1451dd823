package boot

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

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
	allocate := func() error {
		return unix.Fallocate(int(s.memory.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(start), int64(end-start))
	}
	err := allocate()
	for errors.Is(err, unix.EINTR) { // a signal of the Go runtime, on older kernels
		err = allocate()
	}
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
