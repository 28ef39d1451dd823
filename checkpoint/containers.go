package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// describeFurther adds to a description the containers that the saved kernel has
// besides the first, and returns their environments.
func describeFurther(c *image.Config, sb *sandbox.Sandbox, survey *inside.Survey) (restoreenv.Environment, error) {
	environment := make(restoreenv.Environment)
	if len(survey.Containers) == 0 {
		return environment, nil
	}
	all, err := sb.Containers()
	if err != nil {
		return nil, err
	}
	for _, state := range survey.Containers {
		at := slices.IndexFunc(all, func(s *sandbox.Sandbox) bool { return s.Name == state.Name })
		if at < 0 {
			return nil, fmt.Errorf("container %q of sandbox %q has no state directory any more: it cannot be described", state.Name, sb.ID)
		}
		spec, err := all[at].Spec()
		if err != nil {
			return nil, err
		}
		container := image.Container{Name: state.Name, ID: all[at].ID}
		if container.Spec, err = json.Marshal(spec); err != nil {
			return nil, err
		}
		if container.Mounts, err = json.Marshal(all[at].Mounts); err != nil {
			return nil, err
		}
		c.Containers = append(c.Containers, container)
		maps.Copy(environment, restoreenv.Build(state.Name, all[at].Mounts))
	}
	return environment, nil
}

// terminals returns the terminals of further containers, by name.
func terminals(survey *inside.Survey) map[string]*boot.TerminalState {
	var all map[string]*boot.TerminalState
	for _, state := range survey.Containers {
		if state.Terminal == nil {
			continue
		}
		if all == nil {
			all = make(map[string]*boot.TerminalState)
		}
		all[state.Name] = state.Terminal
	}
	return all
}

// firsts returns the PIDs of the first processes of further containers, by name.
func firsts(survey *inside.Survey) map[string]int32 {
	var all map[string]int32
	for _, state := range survey.Containers {
		if all == nil {
			all = make(map[string]int32)
		}
		all[state.Name] = state.PID
	}
	return all
}

// savedContainer is one that an image has besides the first.
type savedContainer struct {
	name, id string
	spec     specs.Spec
	mounts   mounts.List
	terminal *boot.TerminalState
	pid      int32 // of its first process
}

// readFurther takes the containers besides the first apart.
func readFurther(containers []image.Container, streams *streams) ([]savedContainer, error) {
	var all []savedContainer
	seen := map[string]bool{boot.RootContainer: true}
	for _, c := range containers {
		s := savedContainer{name: c.Name, id: c.ID, terminal: streams.Terminals[c.Name], pid: streams.Firsts[c.Name]}
		if c.Name == "" || seen[c.Name] {
			return nil, fmt.Errorf("image config: container name %q is empty or there twice", c.Name)
		}
		seen[c.Name] = true
		if err := json.Unmarshal(c.Spec, &s.spec); err != nil {
			return nil, fmt.Errorf("image config: spec of container %q: %w", c.Name, err)
		}
		if err := json.Unmarshal(c.Mounts, &s.mounts); err != nil {
			return nil, fmt.Errorf("image config: mounts of container %q: %w", c.Name, err)
		}
		if s.spec.Process == nil {
			return nil, fmt.Errorf("image config: spec of container %q has no process", c.Name)
		}
		all = append(all, s)
	}
	return all, nil
}

// checkEnvironment checks that what gofers are to serve is what the environment has,
// container by container: only that is resolved on this host, and a path that an
// image names is not to be served for want of another.
func (s *saved) checkEnvironment() error {
	lists := map[string]*mounts.List{boot.RootContainer: &s.mounts}
	for i := range s.further {
		lists[s.further[i].name] = &s.further[i].mounts
	}
	for name := range s.environment {
		if lists[name] == nil {
			return fmt.Errorf("restore environment has a container %q, which has no mounts", name)
		}
	}
	for name, list := range lists {
		served := s.environment[name][mounts.FilesystemGofer]
		same := slices.EqualFunc(list.GoferMounts(), served, func(m mounts.Mount, e restoreenv.Entry) bool { return m.Destination == e.Destination })
		if !same {
			return fmt.Errorf("container %q has other mounts of the host's files than its restore environment", name)
		}
	}
	return nil
}

// FurtherOptions says how a container besides the first is restored.
type FurtherOptions struct {
	ID string // as which it is restored
	// Stdio are its stdin, stdout and stderr, or the one slave end of its terminal.
	// Restore takes ownership.
	Stdio []*os.File
	// StandIn is the PID of the process that stands for it on this host.
	StandIn int
	PIDFile string // where to write that PID; empty: nowhere
	Output  string // where Stdio leads to, for the record; empty: not known
}

// furtherRestore says how the containers besides the first are made. opts has each of
// them.
func (p *Plan) furtherRestore(opts map[string]FurtherOptions) []sandbox.FurtherRestore {
	var all []sandbox.FurtherRestore
	for i, c := range p.saved.further {
		o := opts[c.name]
		all = append(all, sandbox.FurtherRestore{
			ID: o.ID, Name: c.name, Bundle: p.furtherBundles[c.name], Mounts: p.furtherLists[i], Terminal: c.terminal, PID: c.pid,
			Stdio: o.Stdio, StandIn: o.StandIn, PIDFile: o.PIDFile, Output: o.Output,
		})
	}
	return all
}
