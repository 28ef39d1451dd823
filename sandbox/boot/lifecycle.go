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

// Start lets the container's tasks run.
func (l *Lifecycle) Start(*control.None, *control.None) error {
	return l.s.start()
}

// Status says where the sandbox is in its life. It takes no lock of the
// kernel.
func (l *Lifecycle) Status(_ *control.None, out *control.Status) error {
	phase := l.s.Phase()
	switch phase {
	case PhaseSaving:
		phase = PhasePaused // what runc calls it
	case phasePausing:
		phase = PhaseRunning
	case phaseStarting:
		phase = PhaseCreated
	}
	out.Status = string(phase)
	return nil
}

// Wait blocks until a process has ended and what it wrote is where its streams
// lead. An exec can be waited for once.
func (l *Lifecycle) Wait(in *control.WaitArgs, out *control.WaitResult) error {
	e, err := l.s.find(in.PID)
	if err != nil {
		return err
	}
	// Of a kernel that was loaded and not started, every process would seem to have ended.
	<-l.s.started
	e.tg.WaitExited()
	l.s.streams.flush(e.session)
	l.s.forget(in.PID)
	out.Status = exitStatus(e.tg.ExitStatus())
	return nil
}

// Signal sends a signal.
func (l *Lifecycle) Signal(in *control.SignalArgs, _ *control.None) error {
	if in.Signal < 0 || in.Signal > linux.SignalMaximum {
		return fmt.Errorf("signal %d is not one", in.Signal)
	}
	info := &linux.SignalInfo{Signo: in.Signal}
	if l.s.Phase() == PhaseStopped {
		return errStopped
	}
	switch in.Target {
	case control.TargetAll:
		return l.s.kernel.SendContainerSignal(RootContainer, info)
	case control.TargetForeground:
		return l.s.signalForeground(in.PID, info)
	case control.TargetProcess, "":
		tg, err := l.s.threadGroup(in.PID)
		if err != nil {
			return err
		}
		return l.s.kernel.SendExternalSignalThreadGroup(tg, info)
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

// Exec starts a further process in the container.
func (l *Lifecycle) Exec(in *control.ExecArgs, out *control.ExecResult) error {
	pid, err := l.s.exec(in)
	out.PID = int32(pid)
	return err
}

// Processes lists the container's processes.
func (l *Lifecycle) Processes(_ *control.None, out *[]control.Process) error {
	var list []*gcontrol.Process
	if err := gcontrol.Processes(l.s.kernel, RootContainer, &list); err != nil {
		return err
	}
	for _, p := range list {
		row := control.Process{
			PID: int32(p.PID), PPID: int32(p.PPID), PGID: int32(p.PGID), UID: uint32(p.UID),
			TTY: p.TTY, CPUTime: p.Time, Start: p.STime, Command: p.Cmd,
		}
		for _, tid := range p.Threads {
			row.Threads = append(row.Threads, int32(tid))
		}
		*out = append(*out, row)
	}
	return nil
}

// Stats samples what the sandbox uses.
func (l *Lifecycle) Stats(_ *control.None, out *control.Stats) error {
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
		garbage.collectLater()
	}
	close(s.started)
	s.Enter(phaseStarting, PhaseRunning)
	go func() {
		s.kernel.GlobalInit().WaitExited()
		stopped := PhaseStopped
		s.phase.Store(&stopped)
		close(s.ended)
	}()
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

// threadGroup finds a process of the container; 0 is its first.
func (s *Sandbox) threadGroup(pid int32) (*kernel.ThreadGroup, error) {
	e, err := s.find(pid)
	return e.tg, err
}

// find finds a process of the container, and the session of its streams if it
// was given some; 0 is the container's first.
func (s *Sandbox) find(pid int32) (execed, error) {
	if pid == 0 {
		return execed{s.kernel.GlobalInit(), RootContainer}, nil
	}
	s.mu.Lock()
	e, ok := s.execs[pid]
	s.mu.Unlock()
	if ok {
		return e, nil
	}
	tg := s.kernel.RootPIDNamespace().ThreadGroupWithID(kernel.ThreadID(pid))
	if tg == nil {
		return execed{}, fmt.Errorf("container has no process %d", pid)
	}
	return execed{tg: tg}, nil
}

// signalForeground signals the foreground process group of the terminal that
// pid is on, and pid itself where there is none.
func (s *Sandbox) signalForeground(pid int32, info *linux.SignalInfo) error {
	tg, err := s.threadGroup(pid)
	if err != nil {
		return err
	}
	if tty := tg.TTY(); tty != nil {
		if group, err := tg.ForegroundProcessGroup(tty); err == nil && group != nil {
			return s.kernel.SendExternalSignalProcessGroup(group, info)
		}
	}
	return s.kernel.SendExternalSignalThreadGroup(tg, info)
}

// exitCode waits for the container to end and returns its exit status.
func (s *Sandbox) exitCode() int {
	<-s.ended
	return exitStatus(s.kernel.GlobalInit().ExitStatus())
}
