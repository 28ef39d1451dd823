package boot

import (
	"fmt"
	"slices"
)

// The list of the sandbox's containers, and what is said of all of them.

// container finds a container by its name, "" is the first.
func (s *Sandbox) container(name string) (*container, error) {
	if name == "" || name == RootContainer {
		return s.first, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.further[name]
	if c == nil {
		return nil, fmt.Errorf("sandbox has no container %q", name)
	}
	return c, nil
}

// furtherContainers returns the containers besides the first, by name.
func (s *Sandbox) furtherContainers() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*container, 0, len(s.further))
	for _, c := range s.further {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *container) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return all
}

// add makes a container findable.
func (s *Sandbox) add(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.name == RootContainer || s.further[c.name] != nil {
		return fmt.Errorf("sandbox has a container %q already", c.name)
	}
	if s.further == nil {
		s.further = make(map[string]*container)
	}
	s.further[c.name] = c
	return nil
}

// remove undoes add, and forgets the container's execs. It says whether the
// container was still there.
func (s *Sandbox) remove(c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.further[c.name] != c {
		return false
	}
	delete(s.further, c.name)
	s.gone = append(s.gone, c)
	for key := range s.execs {
		if key.container == c.name {
			delete(s.execs, key)
		}
	}
	return true
}

// Lingering returns the names of the containers that have ended, and whose files or
// processes something inside still has. A saved kernel would ask for their gofers.
func (s *Sandbox) Lingering() []string {
	ended := slices.DeleteFunc(s.furtherContainers(), func(c *container) bool { return !c.hasEnded() && s.remembers(c) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = slices.DeleteFunc(s.gone, func(c *container) bool { return !c.lingers() })
	var names []string
	for _, c := range append(ended, s.gone...) {
		if c.lingers() {
			names = append(names, c.name)
		}
	}
	return names
}

// ContainerState is what a sandbox says of one of its further containers that has
// not ended.
type ContainerState struct {
	Name string `json:"name"`
	// PID is its first process in the sandbox's own PID namespace.
	PID int32 `json:"pid,omitempty"`
	// Unstarted says that its first process has not run yet.
	Unstarted bool           `json:"unstarted,omitempty"`
	Terminal  *TerminalState `json:"terminal,omitempty"`
}

// Containers returns the further containers that have not ended, by name.
func (s *Sandbox) Containers() []ContainerState {
	var states []ContainerState
	for _, c := range s.furtherContainers() {
		if s.remembers(c) {
			states = append(states, ContainerState{Name: c.name, PID: s.rootPID(c), Unstarted: !c.started.Load(), Terminal: c.terminal()})
		}
	}
	return states
}

// rootPID is the PID of a container's first process in the sandbox's own PID namespace, 0 for none.
func (s *Sandbox) rootPID(c *container) int32 {
	if c.process == nil {
		return 0
	}
	return int32(s.kernel.RootPIDNamespace().IDOfThreadGroup(c.process))
}

// remembers says whether the kernel knows of a container's first process. One that it has forgotten is not saved with it either; one
// without a process is only being loaded.
func (s *Sandbox) remembers(c *container) bool {
	return c.process == nil || s.rootPID(c) != 0
}

// watchAll arranges for the ends of all containers of a sandbox that has just
// been started to be noticed. That of the first ends the sandbox.
func (s *Sandbox) watchAll() {
	s.first.started.Store(true)
	for _, c := range s.furtherContainers() {
		c.started.Store(true)
		go s.watch(c)
	}
	go func() {
		s.first.process.WaitExited()
		stopped := PhaseStopped
		s.phase.Store(&stopped)
		close(s.first.ended)
	}()
}
