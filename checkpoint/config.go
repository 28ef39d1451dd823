package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/cpuid"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// streams is what an image says about the host streams of a saved kernel, and whose they are.
type streams struct {
	Sessions []boot.Session      `json:"sessions"`
	Terminal *boot.TerminalState `json:"terminal,omitempty"`
	// Terminals are those of further containers, by name.
	Terminals map[string]*boot.TerminalState `json:"terminals,omitempty"`
	// Firsts are the PIDs of the first processes of further containers, by name, in the sandbox's own PID namespace.
	Firsts map[string]int32 `json:"firsts,omitempty"`
}

// config describes the sandbox being saved.
func (s *saving) config() (image.Config, error) {
	c, err := Describe(s.sb, s.survey, s.memoryBytes)
	if err != nil {
		return c, err
	}
	c.LeftRunning = s.opts.LeaveRunning
	c.Connections, err = json.Marshal(s.connections)
	return c, err
}

// Describe says of a sandbox what whoever restores it must know, given a fresh
// survey and the size of its memory file.
func Describe(sb *sandbox.Sandbox, survey *inside.Survey, memoryBytes uint64) (image.Config, error) {
	facts, err := readBuild()
	if err != nil {
		return image.Config{}, err
	}
	spec, err := sb.Spec()
	if err != nil {
		return image.Config{}, err
	}
	c := image.Config{
		Build: facts.ID, GVisor: facts.GVisor, Arch: survey.CPU.Arch, CPU: imageCPU(survey.CPU),
		Time: time.Now(), SandboxID: sb.ID, Hostname: spec.Hostname,
		Memory: []image.MemoryFile{{ID: memoryFile, Name: "main", SizeBytes: memoryBytes}},
	}
	specJSON, err := json.Marshal(spec)
	if err != nil {
		return image.Config{}, err
	}
	c.Containers = []image.Container{{Name: boot.RootContainer, Spec: specJSON}}
	environment, err := describeFurther(&c, sb, survey)
	if err != nil {
		return image.Config{}, err
	}
	maps.Copy(environment, restoreenv.Build(boot.RootContainer, sb.Mounts))
	for _, part := range []struct {
		into  *json.RawMessage
		value any
	}{
		{&c.Mounts, sb.Mounts},
		{&c.Environment, environment},
		{&c.Network, survey.Network},
		{&c.Processes, survey.Processes},
		{&c.Streams, streams{survey.Sessions, survey.Terminal, terminals(survey), firsts(survey)}},
	} {
		if *part.into, err = json.Marshal(part.value); err != nil {
			return image.Config{}, err
		}
	}
	return c, nil
}

// saved is an image's config, taken apart.
type saved struct {
	spec        specs.Spec
	mounts      mounts.List
	environment restoreenv.Environment
	network     network.Identity
	connections []network.Connection
	streams     streams
	processes   []inside.Process
	further     []savedContainer
}

// readSaved takes an image's config apart and checks what it relies on.
func readSaved(c *image.Config) (*saved, error) {
	if len(c.Containers) == 0 || c.Containers[0].Name != boot.RootContainer {
		return nil, fmt.Errorf("image has %d containers, want at least one, and the first named %q", len(c.Containers), boot.RootContainer)
	}
	s := &saved{}
	for _, part := range []struct {
		name string
		from json.RawMessage
		into any
	}{
		{"spec", c.Containers[0].Spec, &s.spec},
		{"mounts", c.Mounts, &s.mounts},
		{"streams", c.Streams, &s.streams},
	} {
		if err := json.Unmarshal(part.from, part.into); err != nil {
			return nil, fmt.Errorf("image config: %s: %w", part.name, err)
		}
	}
	var err error
	if s.further, err = readFurther(c.Containers[1:], &s.streams); err != nil {
		return nil, err
	}
	// They are for people, and a hint for us: an image without them is as good.
	json.Unmarshal(c.Processes, &s.processes)
	if s.environment, err = restoreenv.Parse(c.Environment); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := s.checkEnvironment(); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	id, err := network.ParseIdentity(c.Network)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	s.network = *id
	if s.connections, err = network.ParseConnections(c.Connections); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if s.spec.Process == nil {
		return nil, fmt.Errorf("image config: spec has no process")
	}
	return s, nil
}

func imageCPU(c inside.CPU) image.CPU {
	return image.CPU{
		Features: c.Features, CacheLineBytes: c.CacheLineBytes,
		XSAVEBytes: c.XSAVEBytes, XSAVEFeatures: c.XSAVEMask,
	}
}

// thisHost is what images are compared with.
func thisHost() (image.Host, error) {
	facts, err := readBuild()
	if err != nil {
		return image.Host{}, err
	}
	cpuid.Initialize()
	cpu := inside.ReadCPU()
	return image.Host{Build: facts.ID, GVisor: facts.GVisor, Arch: cpu.Arch, CPU: imageCPU(cpu)}, nil
}
