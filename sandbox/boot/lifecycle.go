package boot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/log"
	gcontrol "gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// errStopped answers a call that needs a live container.
var errStopped = errors.New("container has stopped")

// Lifecycle serves the methods of package control that every sandbox has. Its
// exported methods are the remote calls.
type Lifecycle struct {
	s *Sandbox
}

// Start lets a container's tasks run: the sandbox's, if it is the first.
func (l *Lifecycle) Start(in *control.Which, _ *control.None) error {
	if in.Container == "" {
		return l.s.start()
	}
	return l.s.startContainer(in.Container)
}

// Create makes a further container.
func (l *Lifecycle) Create(in *control.CreateArgs, _ *control.None) error {
	return l.s.createContainer(in)
}

// Destroy ends a further container and forgets it.
func (l *Lifecycle) Destroy(in *control.Which, _ *control.None) error {
	return l.s.destroyContainer(in.Container)
}

// Status says where a container is in its life. It takes no lock of the
// kernel.
func (l *Lifecycle) Status(in *control.Which, out *control.Status) error {
	c, err := l.s.container(in.Container)
	if err != nil {
		out.Status = string(PhaseStopped) // it is destroyed
		return nil
	}
	phase := l.s.Phase()
	switch phase {
	case PhaseSaving:
		phase = PhasePaused // what runc calls it
	case phasePausing:
		phase = PhaseRunning
	case phaseStarting:
		phase = PhaseCreated
	}
	out.Status = string(c.status(phase))
	return nil
}

// Wait blocks until a process has ended and what it wrote is where its streams
// lead. An exec can be waited for once.
func (l *Lifecycle) Wait(in *control.WaitArgs, out *control.WaitResult) error {
	c, err := l.s.container(in.Container)
	if err != nil {
		return err
	}
	if in.PID == 0 && c != l.s.first {
		<-c.ended // an unstarted one can be waited for too
		out.Status = exitStatus(c.process.ExitStatus())
		return nil
	}
	e, err := l.s.find(c, in.PID)
	if err != nil {
		return err
	}
	// Of a kernel that was loaded and not started, every process would seem to have ended.
	<-l.s.started
	e.tg.WaitExited()
	l.s.streams.flush(e.session)
	l.s.forget(processKey{c.name, in.PID})
	out.Status = exitStatus(e.tg.ExitStatus())
	return nil
}

// Signal sends a signal.
func (l *Lifecycle) Signal(in *control.SignalArgs, _ *control.None) error {
	if in.Signal < 0 || in.Signal > linux.SignalMaximum {
		return fmt.Errorf("signal %d is not one", in.Signal)
	}
	info := &linux.SignalInfo{Signo: in.Signal}
	c, err := l.s.container(in.Container)
	if err != nil {
		return err
	}
	if l.s.Phase() == PhaseStopped || c.hasEnded() {
		return errStopped
	}
	if c != l.s.first && !c.running() {
		return l.s.endUnstarted(c, info)
	}
	switch in.Target {
	case control.TargetAll:
		return l.s.kernel.SendContainerSignal(c.name, info)
	case control.TargetForeground:
		return l.s.signalForeground(c, in.PID, info)
	case control.TargetProcess, "":
		e, err := l.s.find(c, in.PID)
		if err != nil {
			return err
		}
		return l.s.kernel.SendExternalSignalThreadGroup(e.tg, info)
	default:
		return fmt.Errorf("signal target %q is not known", in.Target)
	}
}

// Pause stops all tasks where they are.
func (l *Lifecycle) Pause(*control.None, *control.None) error {
	if !l.s.Enter(PhaseRunning, phasePausing) {
		return fmt.Errorf("cannot pause: container is %s, want %s", l.s.Phase(), PhaseRunning)
	}
	l.s.kernel.Pause()
	l.s.Enter(phasePausing, PhasePaused)
	return nil
}

// Resume undoes Pause.
func (l *Lifecycle) Resume(*control.None, *control.None) error {
	if !l.s.Enter(PhasePaused, PhaseRunning) {
		return fmt.Errorf("cannot resume: container is %s, want %s", l.s.Phase(), PhasePaused)
	}
	l.s.kernel.Unpause()
	return nil
}

// Exec starts a further process in a container.
func (l *Lifecycle) Exec(in *control.ExecArgs, out *control.ExecResult) error {
	pid, err := l.s.exec(in)
	out.PID = int32(pid)
	return err
}

// Processes lists a container's processes, with their PIDs there.
func (l *Lifecycle) Processes(in *control.Which, out *[]control.Process) error {
	c, err := l.s.container(in.Container)
	if err != nil {
		return err
	}
	*out, err = l.s.processes(c)
	return err
}

// Stats samples what the sandbox uses, or one of its further containers.
func (l *Lifecycle) Stats(in *control.Which, out *control.Stats) error {
	if in.Container != "" {
		c, err := l.s.container(in.Container)
		if err != nil {
			return err
		}
		if c.hasEnded() {
			return errStopped
		}
		*out = l.s.usage(c)
		return nil
	}
	if err := l.s.mf.UpdateUsage(nil); err != nil {
		return fmt.Errorf("account memory: %w", err)
	}
	snapshot, _ := usage.MemoryAccounting.Copy()
	total, err := l.s.mf.TotalUsage()
	if err != nil {
		return fmt.Errorf("account memory: %w", err)
	}
	out.MemoryUsage, out.MemoryMapped, out.MemoryLimit = total, snapshot.Mapped, l.s.cfg.TotalMemory
	out.MemoryByKind = map[string]uint64{
		"anonymous": snapshot.Anonymous, "pagecache": snapshot.PageCache,
		"tmpfs": snapshot.Tmpfs, "system": snapshot.System,
	}
	for _, nanos := range gcontrol.ContainerUsage(l.s.kernel) {
		out.CPUNanos += nanos
	}
	out.PIDs = len(l.s.kernel.RootPIDNamespace().ThreadGroups())
	return nil
}

// start lets the tasks run, and arranges for ended to be closed when the
// container's first process is gone.
func (s *Sandbox) start() error {
	if !s.Enter(PhaseCreated, phaseStarting) {
		return fmt.Errorf("cannot start: container is %s, want %s", s.Phase(), PhaseCreated)
	}
	if s.cfg.Tracking == TrackingAlways {
		if err := s.trackAlways(); err != nil {
			return err
		}
	}
	if s.cfg.Restore != nil {
		stack, _ := s.Network()
		if err := network.Unpack(stack); err != nil {
			s.Enter(phaseStarting, PhaseCreated)
			return fmt.Errorf("restore network: %w", err)
		}
	}
	s.stayTogether()
	if err := s.kernel.Start(); err != nil {
		return fmt.Errorf("start kernel: %w", err)
	}
	if s.cfg.Restore != nil {
		stack, gates := s.Network()
		network.Rearm(stack, gates)
		// The addresses live here now: switches and neighbours must hear it.
		if err := gates.Announce(); err != nil {
			log.Warningf("announce addresses: %v", err)
		}
		network.Resume(stack, gates)
		go resetPeers(stack, s.resets())
	}
	garbage.collectLater()
	close(s.started)
	s.Enter(phaseStarting, PhaseRunning)
	s.watchAll()
	return nil
}

// resetTimeout bounds how long peers are looked for that are to be told of the end
// of their connections.
const resetTimeout = 30 * time.Second

// resetPeers tells the peers of connections that the restore ended.
func resetPeers(s *stack.Stack, fates []network.Fate) {
	ctx, cancel := context.WithTimeout(context.Background(), resetTimeout)
	defer cancel()
	sent, err := network.SendResets(ctx, s, fates)
	if err != nil {
		log.Warningf("reset peers of closed connections: %v", err)
	}
	log.Infof("%d of %d peers of closed connections were sent a reset", sent, len(fates))
}

// find finds a process of a container, and the session of its streams if it was
// given some; 0 is the container's first.
func (s *Sandbox) find(c *container, pid int32) (execed, error) {
	if pid == 0 {
		return execed{c.process, c.name}, nil
	}
	s.mu.Lock()
	e, ok := s.execs[processKey{c.name, pid}]
	s.mu.Unlock()
	if ok {
		return e, nil
	}
	tg := c.process.PIDNamespace().ThreadGroupWithID(kernel.ThreadID(pid))
	if tg == nil || tg.Leader().ContainerID() != c.name {
		return execed{}, fmt.Errorf("container has no process %d", pid)
	}
	return execed{tg: tg}, nil
}

// signalForeground signals the foreground process group of the terminal that
// pid is on, and pid itself where there is none.
func (s *Sandbox) signalForeground(c *container, pid int32, info *linux.SignalInfo) error {
	e, err := s.find(c, pid)
	if err != nil {
		return err
	}
	if tty := e.tg.TTY(); tty != nil {
		if group, err := e.tg.ForegroundProcessGroup(tty); err == nil && group != nil {
			return s.kernel.SendExternalSignalProcessGroup(group, info)
		}
	}
	return s.kernel.SendExternalSignalThreadGroup(e.tg, info)
}

// exitCode waits for the first container to end and returns its exit status.
func (s *Sandbox) exitCode() int {
	<-s.first.ended
	return exitStatus(s.first.process.ExitStatus())
}
