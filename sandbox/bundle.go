package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxSpecBytes bounds a config.json.
const maxSpecBytes = 16 << 20

// Bundle is an OCI bundle: a directory with a config.json and a root
// filesystem.
type Bundle struct {
	Dir  string // absolute
	Spec *specs.Spec
	// Warnings name, one each, what the specification asks for and a sandbox
	// does not have, and what stands in its place.
	Warnings []string
}

// LoadBundle reads and checks a bundle's specification. The error wraps
// ErrBundle and names the field at fault.
func LoadBundle(dir string) (*Bundle, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(abs, "config.json")
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if info.Size() > maxSpecBytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, limit is %d", ErrBundle, path, info.Size(), maxSpecBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	spec, warnings, err := ParseSpec(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBundle, path, err)
	}
	return &Bundle{Dir: abs, Spec: spec, Warnings: warnings}, nil
}

// ParseSpec parses and checks a config.json.
func ParseSpec(data []byte) (*specs.Spec, []string, error) {
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, nil, err
	}
	if err := checkSpec(&spec); err != nil {
		return nil, nil, err
	}
	return &spec, notOffered(&spec), nil
}

// checkSpec refuses what could only be run wrongly.
func checkSpec(spec *specs.Spec) error {
	switch {
	case !strings.HasPrefix(spec.Version, "1."):
		return fmt.Errorf("ociVersion is %q, want 1.x", spec.Version)
	case spec.Root == nil || spec.Root.Path == "":
		return errors.New("root.path is missing")
	case spec.Process == nil:
		return errors.New("process is missing")
	case len(spec.Process.Args) == 0:
		return errors.New("process.args is empty: name the program to run")
	case !filepath.IsAbs(spec.Process.Cwd):
		return fmt.Errorf("process.cwd is %q, want an absolute path", spec.Process.Cwd)
	case spec.Windows != nil || spec.Solaris != nil || spec.VM != nil || spec.ZOS != nil:
		return errors.New("platform section is not linux's: only linux is supported")
	}
	return nil
}

// notOffered lists what spec asks for and a sandbox does not have. Fields that
// the sandbox honours are not mentioned.
func notOffered(spec *specs.Spec) []string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	p := spec.Process
	if p.ApparmorProfile != "" {
		add("process.apparmorProfile %q is not applied: the guest's system calls are served by the sandbox's own kernel", p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" {
		add("process.selinuxLabel %q is not applied: the guest's system calls are served by the sandbox's own kernel", p.SelinuxLabel)
	}
	if p.IOPriority != nil || p.Scheduler != nil {
		add("process.ioPriority and process.scheduler are not applied: guest threads are scheduled by the sandbox's own kernel")
	}
	if h := spec.Hooks; h != nil && len(h.CreateContainer)+len(h.StartContainer) > 0 {
		add("hooks.createContainer and hooks.startContainer are not run: they belong into the container's namespaces, which no host program can enter")
	}
	if spec.Linux != nil {
		w = append(w, linuxNotOffered(spec.Linux)...)
	}
	return w
}

func linuxNotOffered(l *specs.Linux) []string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if l.Seccomp != nil {
		add("linux.seccomp is not applied: guest system calls never reach the host; the sandbox process has a stricter filter of its own")
	}
	if len(l.Sysctl) > 0 {
		names := make([]string, 0, len(l.Sysctl))
		for name := range l.Sysctl {
			names = append(names, name)
		}
		sort.Strings(names)
		add("linux.sysctl %s: not applied, the sandbox's own kernel keeps its defaults", strings.Join(names, ", "))
	}
	for _, d := range l.Devices {
		if !standardDevices[d.Path] {
			add("linux.devices %q is not offered: host devices are not passed through", d.Path)
		}
	}
	if l.MountLabel != "" || l.IntelRdt != nil || l.Personality != nil || len(l.TimeOffsets) > 0 {
		add("linux.mountLabel, intelRdt, personality and timeOffsets are not applied")
	}
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave":
	default:
		add("linux.rootfsPropagation %q is not offered: mounts inside never reach the host", l.RootfsPropagation)
	}
	hasNetwork := false
	for _, ns := range l.Namespaces {
		switch {
		case ns.Type == specs.NetworkNamespace:
			hasNetwork = true
		case ns.Type == specs.UserNamespace || ns.Path == "":
		default:
			add(namespaceWarning+"%s namespace %s is not joined: every sandbox has its own", ns.Type, ns.Path)
		}
	}
	if !hasNetwork {
		add(warnNoNetwork)
	}
	return w
}

// standardDevices are the devices that the sandbox's kernel has itself.
var standardDevices = map[string]bool{
	"/dev/null": true, "/dev/zero": true, "/dev/full": true, "/dev/random": true, "/dev/urandom": true,
	"/dev/tty": true, "/dev/ptmx": true, "/dev/console": true, "/dev/fuse": true, "/dev/net/tun": true,
}

// namespaceWarning begins every warning about linux.namespaces.
const namespaceWarning = "linux.namespaces: "

// warnNoNetwork is the warning for a specification that wants the host's network.
const warnNoNetwork = namespaceWarning + "there is no network namespace: the host's network is not offered, the sandbox gets a loopback only"

// SetNetworkNamespace makes the specification name a network namespace, whatever it
// named before.
func (b *Bundle) SetNetworkNamespace(path string) {
	if b.Spec.Linux == nil {
		b.Spec.Linux = &specs.Linux{}
	}
	others := slices.DeleteFunc(b.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	b.Warnings = slices.DeleteFunc(b.Warnings, func(w string) bool { return w == warnNoNetwork })
	b.Spec.Linux.Namespaces = append(others, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
}

// NetworkNamespace returns the path of the network namespace that the spec
// names, or "" for loopback only.
func NetworkNamespace(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}
