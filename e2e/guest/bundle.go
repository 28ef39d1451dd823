package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where a guest finds things. All exist on every Debian, so that a read-only root need not be changed.
const (
	ProgramsDir = "/srv" // the programs of this package, read-only
	DataDir     = "/mnt" // a directory of the host, read-write

	// Python is Debian's, whatever else is first in the host's PATH.
	Python = "/usr/bin/python3"
)

// A Bundle describes what config.json says. The zero value runs a shell in the machine's own root.
type Bundle struct {
	Args     []string          // default: /bin/sh
	Env      []string          // added to PATH, HOME and TERM
	Cwd      string            // default: /
	UID, GID uint32            // default: root
	Terminal bool              // asks for a terminal
	Root     string            // directory of the host; default: the machine's own /
	Writable bool              // whether the guest may write to Root
	Mounts   []specs.Mount     // added after proc, /dev, /dev/pts, /dev/shm, /sys and /tmp
	Edit     func(*specs.Spec) // last, for what has no field here
}

// Write makes dir, if need be, and its config.json.
func (b Bundle) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config, err := json.MarshalIndent(b.Spec(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode config.json: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
}

// Spec returns what Write writes.
func (b Bundle) Spec() *specs.Spec {
	args, cwd, root := b.Args, b.Cwd, b.Root
	if len(args) == 0 {
		args = []string{"/bin/sh"}
	}
	if cwd == "" {
		cwd = "/"
	}
	if root == "" {
		root = "/"
	}
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: "guest",
		Root:     &specs.Root{Path: root, Readonly: !b.Writable},
		Process: &specs.Process{
			Args:         args,
			Cwd:          cwd,
			Terminal:     b.Terminal,
			User:         specs.User{UID: b.UID, GID: b.GID},
			Env:          append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TERM=xterm", "PYTHONDONTWRITEBYTECODE=1"}, b.Env...),
			Capabilities: capabilities(),
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 4096}},
		},
		Mounts: append([]specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		}, b.Mounts...),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
	if b.Edit != nil {
		b.Edit(spec)
	}
	return spec
}

// Bind returns a bind mount of a directory or file of the host. Options default to read-write.
func Bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)}
}

// capabilities returns what container managers give to a container by default.
func capabilities() *specs.LinuxCapabilities {
	names := []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}
