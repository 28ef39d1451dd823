package boot

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// FurtherContainer is one that a saved kernel has besides the first.
type FurtherContainer struct {
	Name   string       `json:"name"`
	Mounts *mounts.List `json:"mounts"`
	// PID is that of ContainerState.
	PID int32 `json:"pid,omitempty"`
	// HasTerminal says that it has one stream, a terminal. Terminal is set on that
	// before any task runs.
	HasTerminal bool           `json:"hasTerminal,omitempty"`
	Terminal    *TerminalState `json:"terminal,omitempty"`
}

// streams is how many standard streams the container has.
func (f *FurtherContainer) streams() int {
	if f.HasTerminal {
		return 1
	}
	return 3
}

// files is how many files of Files.Further are the container's: where its exit
// record goes, its standard streams, and its gofer's sockets.
func (f *FurtherContainer) files() int { return 1 + f.streams() + len(f.Mounts.GoferMounts()) }

// createContainer makes a further container with its first process, which does
// not run yet.
func (s *Sandbox) createContainer(in *control.CreateArgs) (err error) {
	if err := checkCreate(in); err != nil {
		return err
	}
	s.makeMu.Lock()
	defer s.makeMu.Unlock()
	s.execMu.RLock()
	defer s.execMu.RUnlock()
	if phase := s.Phase(); phase != PhaseRunning {
		return fmt.Errorf("cannot create container: sandbox is %s, want %s", phase, PhaseRunning)
	}
	s.streams.forget(in.Files)
	if err := s.checkName(in.Name); err != nil {
		return err
	}
	args, err := newProcessArgs(s.kernel, in.Name, in.Spec.Process)
	if err != nil {
		return err
	}
	if args.PIDNamespace, err = s.pidNamespace(in.PIDNamespaceOf); err != nil {
		return err
	}
	// The call closes its own files when it returns.
	files, err := copyFiles(in.Files)
	if err != nil {
		return err
	}
	c := newContainer(in.Name, files[0])
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	stdio, preserved := files[1:1+in.Streams], files[1+in.Streams:1+in.Streams+in.Preserved]
	goferFDs, err := releaseAll(files[1+in.Streams+in.Preserved:])
	if err != nil {
		closeAll(stdio, preserved)
		return err
	}
	if err := c.serve(goferFDs); err != nil {
		closeAll(stdio, preserved)
		return err
	}
	s.kernel.RegisterContainerName(c.name, c.name)
	if err := s.mountAll(&args, in.Spec.Linux, in.Mounts, goferFDs); err != nil {
		closeAll(stdio, preserved)
		return err
	}
	if err := s.createFirstProcess(c, &args, in.Spec.Process, stdio, preserved); err != nil {
		return err
	}
	return s.add(c)
}

// checkName refuses a name under which the kernel has something already: it would be
// saved under the same name.
func (s *Sandbox) checkName(name string) error {
	if _, err := s.container(name); err == nil {
		return fmt.Errorf("sandbox has a container %q already", name)
	}
	isName := func(session Session) bool { return session.Name == name }
	if slices.Contains(s.Lingering(), name) || slices.ContainsFunc(s.Sessions(), isName) {
		return fmt.Errorf("a container %q has ended, but files of it are still open inside: end who has them, or use another name", name)
	}
	return nil
}

// checkCreate checks what the rest relies on.
func checkCreate(in *control.CreateArgs) error {
	if in.Name == "" || in.Spec == nil || in.Spec.Process == nil || in.Mounts == nil {
		return errors.New("new container lacks name, spec, process or mounts")
	}
	wantStreams := 3
	if in.Spec.Process.Terminal {
		wantStreams = 1
	}
	if in.Streams != wantStreams || in.Preserved < 0 || in.Preserved > control.MaxCreateFiles {
		return fmt.Errorf("new container has %d standard streams and %d more, want %d and at most %d", in.Streams, in.Preserved, wantStreams, control.MaxCreateFiles)
	}
	if want := 1 + in.Streams + in.Preserved + len(in.Mounts.GoferMounts()); len(in.Files) != want {
		return fmt.Errorf("new container comes with %d files, want %d", len(in.Files), want)
	}
	return nil
}

// pidNamespace returns that of a container, or a new one.
func (s *Sandbox) pidNamespace(of string) (*kernel.PIDNamespace, error) {
	root := s.kernel.RootPIDNamespace()
	if of == "" {
		return root.NewChild(s.kernel.SupervisorContext(), s.kernel, s.kernel.RootUserNamespace()), nil
	}
	c, err := s.container(of)
	if err != nil {
		return nil, fmt.Errorf("join PID namespace: %w", err)
	}
	if ns := c.process.PIDNamespace(); ns == root || c.running() {
		return ns, nil
	}
	return nil, fmt.Errorf("join PID namespace: container %q has ended, or was not started", of)
}

func closeAll(groups ...[]*os.File) {
	for _, files := range groups {
		for _, f := range files {
			f.Close()
		}
	}
}

// reconnect returns a descriptor for every host resource that the saved kernel
// refers to, and makes the containers that it has known here. It owns the files.
func (s *Sandbox) reconnect(files *Files) (map[checkpoint.ResourceID]int, error) {
	restore := s.cfg.Restore
	given := make(givenStreams)
	gofers := make(map[checkpoint.ResourceID]*os.File)
	connect := func(c *container, list *mounts.List, terminal *TerminalState, hasTerminal bool, stdio, preserved, sockets []*os.File) error {
		given.add(c.name, stdio, preserved)
		for i, mount := range list.GoferMounts() {
			gofers[checkpoint.ResourceID{ContainerName: c.name, Path: mount.Destination}] = sockets[i]
		}
		if err := c.rememberTerminal(hasTerminal, stdio); err != nil || terminal == nil || c.terminalFD < 0 {
			return err
		}
		return terminal.Apply(c.terminalFD)
	}
	if err := connect(s.first, s.cfg.Mounts, restore.Terminal, s.cfg.Spec.Process.Terminal, files.Stdio, files.Preserved, files.Gofer); err != nil {
		return nil, err
	}
	left := files.Further
	for i := range restore.Further {
		f := &restore.Further[i]
		own := left[:f.files()]
		left = left[f.files():]
		c := newContainer(f.Name, own[0])
		if err := s.add(c); err != nil {
			return nil, err
		}
		if err := connect(c, f.Mounts, f.Terminal, f.HasTerminal, own[1:1+f.streams()], nil, own[1+f.streams():]); err != nil {
			return nil, err
		}
	}
	ofExecs := make(map[string]*os.File)
	for i, name := range restore.Terminals {
		ofExecs[name] = files.Terminals[i]
	}
	hostFDs, err := s.streams.reconnect(restore.Sessions, given, ofExecs)
	if err != nil {
		return nil, err
	}
	for id, f := range gofers {
		if hostFDs[id], err = release(f); err != nil {
			return nil, err
		}
		if c, _ := s.container(id.ContainerName); c != nil && c != s.first {
			if err := c.serve([]int{hostFDs[id]}); err != nil {
				return nil, err
			}
		}
	}
	return hostFDs, nil
}

// findContainers finds the first process of every container in a loaded kernel.
func (s *Sandbox) findContainers() error {
	s.first.setProcess(s.kernel.GlobalInit())
	if len(s.cfg.Restore.Further) == 0 {
		return nil
	}
	for i := range s.cfg.Restore.Further {
		f := &s.cfg.Restore.Further[i]
		tg := s.kernel.RootPIDNamespace().ThreadGroupWithID(kernel.ThreadID(f.PID))
		if tg == nil || tg.Leader().ContainerID() != f.Name {
			return fmt.Errorf("saved kernel has no process %d of container %q", f.PID, f.Name)
		}
		c, err := s.container(f.Name)
		if err != nil {
			return err
		}
		c.setProcess(tg)
	}
	for _, c := range s.furtherContainers() {
		if c.process == nil {
			return fmt.Errorf("saved kernel has no container %q", c.name)
		}
	}
	return nil
}
