package sandbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/cgroup"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/gofer"
)

// What a further container shares with the others of its sandbox, and what its
// specification asks for beyond that.

// runFurther makes a further container.
func (c *creation) runFurther(ctx context.Context) (*Sandbox, error) {
	if err := c.compareWarnings(); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{c.compileMounts, c.checkShared, c.startFurtherGofer} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c.createFurther(ctx)
}

// compiledSpec is the specification that mounts are compiled from.
func (c *creation) compiledSpec() *specs.Spec {
	if c.in == nil {
		return c.opts.Bundle.Spec
	}
	return WithShared(c.opts.Bundle.Spec, c.in.Annotations)
}

// WithShared returns a further container's specification with what the annotations
// of its sandbox's first one say about shared mounts, where it mounts them and says
// nothing itself.
func WithShared(own *specs.Spec, sandbox map[string]string) *specs.Spec {
	spec := *own
	spec.Annotations = maps.Clone(own.Annotations)
	for key, value := range sandbox {
		name, found := mounts.SharedName(key)
		if _, has := own.Annotations[key]; has || !found {
			continue
		}
		mounted := slices.ContainsFunc(own.Mounts, func(m specs.Mount) bool { return m.Source == sandbox[mounts.SharedPrefix+name+".source"] })
		if !mounted {
			continue // it would be warned of
		}
		if spec.Annotations == nil {
			spec.Annotations = make(map[string]string)
		}
		spec.Annotations[key] = value
	}
	return &spec
}

// checkShared refuses a shared mount that another container has otherwise: the first
// one has made it.
func (c *creation) checkShared(context.Context) error {
	for _, other := range append([]*Sandbox{c.in}, c.siblings...) {
		for _, theirs := range other.Mounts.Mounts {
			for _, mine := range c.record.Mounts.Mounts {
				if mine.SharedInPod() && theirs.SharedInPod() && mine.Shared.Name == theirs.Shared.Name && mine.Data != theirs.Data {
					return fmt.Errorf("%w: mount %q: shared mount %q has options %q, container %q made it with %q: give both the same",
						ErrBundle, mine.Destination, mine.Shared.Name, mine.Data, other.ID, theirs.Data)
				}
			}
		}
	}
	return nil
}

// startFurtherGofer starts the container's gofer and places it in the container's
// cgroup, where the host lets us. That is all of the container that has processes of
// its own.
func (c *creation) startFurtherGofer(ctx context.Context) error {
	if err := c.startGofer(ctx); err != nil {
		return err
	}
	c.makeFurtherCgroup(&c.record, c.gofer, c.opts.Bundle.Spec.Linux)
	return nil
}

// makeFurtherCgroup makes the cgroup that a further container's specification names. Where the host does not let us, it has none, and
// a warning says so.
func (c *creation) makeFurtherCgroup(record *Record, g *gofer.Process, linux *specs.Linux) {
	if linux == nil || linux.CgroupsPath == "" {
		return
	}
	if err := c.makeCgroupOf(record, g, linux.CgroupsPath); err != nil {
		c.warnings = append(c.warnings, fmt.Sprintf("linux.cgroupsPath %q is not made: %v", linux.CgroupsPath, err))
	}
}

// makeCgroupOf makes a further container's cgroup, without limits.
func (c *creation) makeCgroupOf(record *Record, g *gofer.Process, path string) error {
	group, err := openCgroup(path, record.ID)
	if err != nil {
		return err
	}
	if err := group.Install(nil); err != nil {
		return err
	}
	if err := placeInCgroup(group, g.PID); err != nil {
		group.Uninstall()
		return err
	}
	c.undoer(func() {
		g.Kill() // it is in there
		group.Uninstall()
	})
	record.CgroupPath, record.Cgroup = path, &cgroup.CgroupJSON{Cgroup: group}
	return nil
}

// compareWarnings replaces what a sandbox of its own would not have by what a further
// container does not have.
func (c *creation) compareWarnings() error {
	inSpec, err := c.in.Spec()
	if err != nil {
		return err
	}
	c.warnings = furtherWarnings(c.opts.Bundle, inSpec, c.in)
	return nil
}

// furtherWarnings says what a further container's specification asks for in vain.
func furtherWarnings(bundle *Bundle, inSpec *specs.Spec, in *Sandbox) []string {
	kept := slices.DeleteFunc(slices.Clone(bundle.Warnings), func(w string) bool { return strings.HasPrefix(w, namespaceWarning) })
	return append(kept, furtherNotOffered(bundle.Spec, inSpec, in)...)
}

// furtherNotOffered lists what a further container asks for and shares with its
// sandbox instead.
func furtherNotOffered(spec, inSpec *specs.Spec, in *Sandbox) []string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if spec.Hostname != "" && spec.Hostname != inSpec.Hostname {
		add("hostname %q is not set: the containers of a sandbox share its name %q", spec.Hostname, inSpec.Hostname)
	}
	if spec.Process.OOMScoreAdj != nil {
		add("process.oomScoreAdj is not applied: the containers of a sandbox are one process of the host")
	}
	if spec.Linux == nil {
		return w
	}
	if spec.Linux.Resources != nil {
		add("linux.resources are not enforced on one container: what it uses is charged to its sandbox, whose limits hold for all")
	}
	for _, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
			if ns.Path != "" && !isNamespaceOf(ns, in, inSpec) {
				add(namespaceWarning+"%s namespace %s is not joined: the containers of a sandbox share its own", ns.Type, ns.Path)
			}
		}
	}
	return w
}

// isNamespaceOf says whether a namespace by path is one that the sandbox stands for. Where that has no process yet, as while it is
// restored, whoever wrote the specification could not name it: that of any process is taken for it.
func isNamespaceOf(ns specs.LinuxNamespace, in *Sandbox, inSpec *specs.Spec) bool {
	if in.Sandbox == (Process{}) && strings.HasPrefix(ns.Path, "/proc/") {
		return true
	}
	if strings.HasPrefix(ns.Path, fmt.Sprintf("/proc/%d/ns/", in.Sandbox.PID)) || ns.Path == in.NetworkNamespace {
		return true
	}
	return inSpec.Linux != nil && slices.Contains(inSpec.Linux.Namespaces, ns)
}

// pidNamespaceOf returns the name of the container whose PID namespace the container
// shares, or "" for one of its own. Without one in its specification it is the
// sandbox's. A path is that of the process that stands for another container, or one
// that another has in its specification too.
func (c *creation) pidNamespaceOf(ctx context.Context) (string, error) {
	path, found := pidNamespacePath(c.opts.Bundle.Spec)
	switch {
	case !found:
		return boot.RootContainer, nil
	case path == "":
		return "", nil
	case path == pidPath(c.in):
		return boot.RootContainer, nil
	}
	var stopped *Sandbox // whoever joins that is told why it cannot
	for _, s := range c.siblings {
		spec, err := s.Spec()
		if err != nil {
			return "", err
		}
		if its, _ := pidNamespacePath(spec); path != pidPath(s) && path != its {
			continue
		}
		if status := s.Status(ctx); status == specs.StateRunning || status == StatePaused {
			return s.Name, nil
		}
		stopped = s
	}
	if stopped != nil {
		return stopped.Name, nil
	}
	c.warnings = append(c.warnings, fmt.Sprintf(namespaceWarning+"pid namespace %s is not joined: no container of the sandbox has it", path))
	return "", nil
}

func pidPath(s *Sandbox) string { return fmt.Sprintf("/proc/%d/ns/pid", s.hostPID()) }

func pidNamespacePath(spec *specs.Spec) (path string, found bool) {
	if spec.Linux == nil {
		return "", false
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path, true
		}
	}
	return "", false
}
