package boot

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// container is one of the sandbox's containers. Its fields do not change once it
// can be found.
type container struct {
	name string
	// process is its first process. The container's processes are numbered in the
	// PID namespace of that.
	process *kernel.ThreadGroup
	// ownPIDs says that it is the first of a PID namespace, which ends with it.
	ownPIDs bool
	// terminalFD is its terminal on the host, -1 if it has none.
	terminalFD int
	// exit takes the ExitRecord of a further container; that of the first is Main's.
	exit *os.File

	// served are the sockets to the gofer of a further container. While one is open
	// something inside refers to files of the container.
	served []heldStream

	started atomic.Bool
	ended   chan struct{} // closed once its first process has ended, and that is on record
}

func newContainer(name string, exit *os.File) *container {
	return &container{name: name, terminalFD: -1, exit: exit, ended: make(chan struct{})}
}

func (c *container) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// running says whether its processes run, or would if the sandbox did.
func (c *container) running() bool { return c.started.Load() && !c.hasEnded() }

// status is where the container is in its life, in a sandbox that is in the given
// phase.
func (c *container) status(sandbox Phase) Phase {
	switch {
	case c.hasEnded():
		return PhaseStopped
	case c.name != RootContainer && !c.started.Load() && sandbox != PhaseStopped:
		return PhaseCreated
	}
	return sandbox
}

// initPID is the PID of the first process of a PID namespace.
const initPID kernel.ThreadID = 1

// setProcess says what the container's first process is.
func (c *container) setProcess(tg *kernel.ThreadGroup) {
	c.process, c.ownPIDs = tg, tg.PIDNamespace().IDOfThreadGroup(tg) == initPID
}

// rememberTerminal keeps a descriptor of the container's terminal, if it has
// one, beside those that the kernel will own.
func (c *container) rememberTerminal(has bool, stdio []*os.File) error {
	if !has {
		return nil
	}
	fd, err := unix.Dup(int(stdio[0].Fd()))
	if err != nil {
		return fmt.Errorf("keep terminal: %w", err)
	}
	c.terminalFD = fd
	return nil
}

// terminal returns the state of the container's terminal, nil if it has none.
func (c *container) terminal() *TerminalState {
	if c.terminalFD < 0 {
		return nil
	}
	return readTerminal(c.terminalFD)
}

// close gives up what belongs to the container here. It cannot be found any more.
func (c *container) close() {
	if c.exit != nil {
		c.exit.Close()
	}
	if c.terminalFD >= 0 {
		unix.Close(c.terminalFD)
	}
}

// lingers says whether something inside still refers to what the container's gofer
// serves.
func (c *container) lingers() bool { return slices.ContainsFunc(c.served, heldStream.open) }

// serve notes the sockets to the container's gofer. The kernel owns them.
func (c *container) serve(fds []int) error {
	for i, fd := range fds {
		h, err := holdFile(i, fd)
		if err != nil {
			return err
		}
		c.served = append(c.served, h)
	}
	return nil
}

// watch records the end of a further container.
func (s *Sandbox) watch(c *container) {
	c.process.WaitExited()
	if c.ownPIDs {
		s.endTasks(c) // they are being killed; with the last one go its mounts
	}
	s.streams.flush(c.name)
	if err := writeJSON(c.exit, ExitRecord{Status: exitStatus(c.process.ExitStatus())}); err != nil {
		log.Warningf("record exit status of container %q: %v", c.name, err)
	}
	close(c.ended)
}

// startContainer lets the tasks of a further container run.
func (s *Sandbox) startContainer(name string) error {
	c, err := s.container(name)
	if err != nil {
		return err
	}
	s.execMu.RLock()
	defer s.execMu.RUnlock()
	if phase := s.Phase(); phase != PhaseRunning {
		return fmt.Errorf("cannot start container: sandbox is %s, want %s", phase, PhaseRunning)
	}
	return s.startLocked(c)
}

// startLocked starts a container's first process. The caller holds execMu.
func (s *Sandbox) startLocked(c *container) error {
	if !c.started.CompareAndSwap(false, true) {
		return fmt.Errorf("cannot start container: it is %s, want %s", c.status(PhaseRunning), PhaseCreated)
	}
	s.kernel.StartProcess(c.process)
	go s.watch(c)
	return nil
}

// endUnstarted ends a container that was not started: its first process gets the
// signal before it runs its first instruction. Other signals than those that end a
// process by default are for somebody who runs.
func (s *Sandbox) endUnstarted(c *container, info *linux.SignalInfo) error {
	switch linux.Signal(info.Signo) {
	case linux.SIGKILL, linux.SIGTERM, linux.SIGINT:
	default:
		return fmt.Errorf("container is %s: start it before it is sent signal %d", PhaseCreated, info.Signo)
	}
	s.execMu.RLock()
	defer s.execMu.RUnlock()
	if phase := s.Phase(); phase != PhaseRunning {
		return fmt.Errorf("cannot end container: sandbox is %s, want %s", phase, PhaseRunning)
	}
	if err := s.kernel.SendExternalSignalThreadGroup(c.process, &linux.SignalInfo{Signo: int32(linux.SIGKILL)}); err != nil {
		return err
	}
	return s.startLocked(c)
}

// destroyContainer ends a further container and forgets it. When it returns, its
// mounts are gone and everything that was written through them is with the gofer.
func (s *Sandbox) destroyContainer(name string) error {
	// It may just be being made, by a call that nobody waits for any more.
	s.makeMu.Lock()
	c, err := s.container(name)
	s.makeMu.Unlock()
	if err != nil {
		return nil // an earlier call got so far
	}
	if c == s.first {
		return fmt.Errorf("container %q is the first of its sandbox, which ends with it", c.name)
	}
	// Paused tasks would be waited for until somebody resumes them.
	if phase := s.Phase(); phase != PhaseRunning && !c.hasEnded() {
		return fmt.Errorf("cannot destroy container: sandbox is %s, want %s", phase, PhaseRunning)
	}
	if !c.started.Load() {
		if err := s.endUnstarted(c, &linux.SignalInfo{Signo: int32(linux.SIGKILL)}); err != nil {
			return err
		}
	}
	s.endTasks(c)
	<-c.ended
	if s.remove(c) { // and no other call meanwhile
		c.close()
	}
	return nil
}

// endTasks kills all processes of a container and waits for their end. With the
// last one go its mounts.
func (s *Sandbox) endTasks(c *container) {
	for {
		var live []*kernel.ThreadGroup
		for _, t := range s.kernel.TaskSet().Root.Tasks() {
			if t.ContainerID() == c.name && t.ExitState() < kernel.TaskExitZombie {
				live = append(live, t.ThreadGroup())
			}
		}
		if len(live) == 0 {
			return
		}
		// One may just be making another: so again until there is none.
		if err := s.kernel.SendContainerSignal(c.name, &linux.SignalInfo{Signo: int32(linux.SIGKILL)}); err != nil {
			log.Debugf("kill container %q: %v", c.name, err) // some have ended meanwhile
		}
		for _, tg := range live {
			tg.WaitExited()
		}
	}
}

// processes lists a container's processes.
func (s *Sandbox) processes(c *container) ([]control.Process, error) {
	list, err := listProcesses(s.kernel, c.name)
	if err != nil {
		return nil, err
	}
	root, own := s.kernel.RootPIDNamespace(), c.process.PIDNamespace()
	if root == own {
		return list, nil
	}
	// What is listed has the sandbox's numbers.
	inside := func(pid int32) int32 {
		if tg := root.ThreadGroupWithID(kernel.ThreadID(pid)); tg != nil {
			return int32(own.IDOfThreadGroup(tg))
		}
		return 0
	}
	kept := list[:0]
	for _, p := range list {
		tg := root.ThreadGroupWithID(kernel.ThreadID(p.PID))
		if tg == nil {
			continue // it has ended meanwhile
		}
		p.PID, p.PPID, p.PGID = int32(own.IDOfThreadGroup(tg)), inside(p.PPID), 0
		if group := tg.ProcessGroup(); group != nil {
			p.PGID = int32(own.IDOfProcessGroup(group))
		}
		p.Threads = p.Threads[:0]
		for _, tid := range tg.MemberIDs(own) {
			p.Threads = append(p.Threads, int32(tid))
		}
		kept = append(kept, p)
	}
	return kept, nil
}
