package boot

import (
	"errors"
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
)

// defaultUmask applies where the spec names none.
const defaultUmask = 0o022

// defaultMaxFiles is RLIMIT_NOFILE where the spec sets none. It is not
// unlimited: programs walk over all descriptors up to it.
const defaultMaxFiles = 1 << 20

// newProcessArgs turns a spec's process into the kernel's terms. Executable,
// mount namespace and descriptors are the caller's to add.
func newProcessArgs(k *kernel.Kernel, container string, p *specs.Process) (kernel.CreateProcessArgs, error) {
	if len(p.Args) == 0 {
		return kernel.CreateProcessArgs{}, errors.New("process.args is empty: name the program to run")
	}
	creds, err := credentials(k, p)
	if err != nil {
		return kernel.CreateProcessArgs{}, err
	}
	limitSet, err := newLimits(p.Rlimits)
	if err != nil {
		return kernel.CreateProcessArgs{}, err
	}
	env, err := lastOfEachName(p.Env)
	if err != nil {
		return kernel.CreateProcessArgs{}, err
	}
	umask := uint(defaultUmask)
	if p.User.Umask != nil {
		umask = uint(*p.User.Umask) & 0o777
	}
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	return kernel.CreateProcessArgs{
		Argv:                 p.Args,
		Envv:                 env,
		WorkingDirectory:     cwd,
		Credentials:          creds,
		NoNewPrivs:           p.NoNewPrivileges,
		Umask:                umask,
		Limits:               limitSet,
		MaxSymlinkTraversals: linux.MaxSymlinkTraversals,
		UTSNamespace:         k.RootUTSNamespace(),
		IPCNamespace:         k.RootIPCNamespace(),
		PIDNamespace:         k.RootPIDNamespace(),
		ContainerID:          container,
	}, nil
}

func credentials(k *kernel.Kernel, p *specs.Process) (*auth.Credentials, error) {
	caps, err := taskCapabilities(p.Capabilities)
	if err != nil {
		return nil, err
	}
	groups := make([]auth.KGID, len(p.User.AdditionalGids))
	for i, gid := range p.User.AdditionalGids {
		groups[i] = auth.KGID(gid)
	}
	return auth.NewUserCredentials(auth.KUID(p.User.UID), auth.KGID(p.User.GID), groups, caps, k.RootUserNamespace()), nil
}

// taskCapabilities maps the spec's five sets; none at all means no capability.
func taskCapabilities(c *specs.LinuxCapabilities) (*auth.TaskCapabilities, error) {
	var caps auth.TaskCapabilities
	if c == nil {
		return &caps, nil
	}
	for _, set := range []struct {
		name  string
		names []string
		into  *auth.CapabilitySet
	}{
		{"bounding", c.Bounding, &caps.BoundingCaps},
		{"effective", c.Effective, &caps.EffectiveCaps},
		{"inheritable", c.Inheritable, &caps.InheritableCaps},
		{"permitted", c.Permitted, &caps.PermittedCaps},
		{"ambient", c.Ambient, &caps.AmbientCaps},
	} {
		for _, name := range set.names {
			bit, ok := capabilityByName[strings.ToUpper(name)]
			if !ok {
				return nil, fmt.Errorf("process.capabilities.%s: capability %q is not known", set.name, name)
			}
			*set.into |= auth.CapabilitySetOf(bit)
		}
	}
	return &caps, nil
}

// newLimits starts from what a container usually gets and applies the spec's
// rlimits over it.
func newLimits(rlimits []specs.POSIXRlimit) (*limits.LimitSet, error) {
	set, err := limits.NewLinuxLimitSet()
	if err != nil {
		return nil, err
	}
	set.SetUnchecked(limits.NumberOfFiles, limits.Limit{Cur: defaultMaxFiles, Max: defaultMaxFiles})
	set.SetUnchecked(limits.Stack, limits.Limit{Cur: 8 << 20, Max: limits.Infinity})
	set.SetUnchecked(limits.ProcessCount, limits.Limit{Cur: limits.Infinity, Max: limits.Infinity})
	for _, rl := range rlimits {
		kind, ok := limits.FromLinuxResourceName[rl.Type]
		if !ok {
			return nil, fmt.Errorf("process.rlimits: resource %q is not known", rl.Type)
		}
		set.SetUnchecked(kind, limits.Limit{Cur: rl.Soft, Max: rl.Hard})
	}
	return set, nil
}

// lastOfEachName keeps the last definition of each variable, in the order of
// first appearance, as execve callers expect of a container runtime.
func lastOfEachName(env []string) ([]string, error) {
	index := make(map[string]int, len(env))
	out := make([]string, 0, len(env))
	for _, entry := range env {
		name, _, ok := strings.Cut(entry, "=")
		if !ok {
			return nil, fmt.Errorf("process.env: %q has no '='", entry)
		}
		if i, seen := index[name]; seen {
			out[i] = entry
			continue
		}
		index[name] = len(out)
		out = append(out, entry)
	}
	return out, nil
}

// exitStatus maps a wait status to what a shell would say: the exit status, or
// 128 plus the signal.
func exitStatus(ws linux.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.TerminationSignal())
	}
	return int(ws.ExitStatus())
}
