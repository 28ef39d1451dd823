package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type specOptions struct {
	bundle   string
	terminal bool
	netns    string
}

func (o *specOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.bundle, "bundle", "b", ".", "`directory` to write config.json into")
	f.BoolVarP(&o.terminal, "tty", "t", false, "give the process a terminal")
	f.StringVar(&o.netns, "netns", "", "take over the addresses of the network namespace at this `path`; default: loopback only")
}

func newSpecCommand(c *cli) *cobra.Command {
	var opts specOptions
	cmd := &cobra.Command{
		Use:   "spec [flags] [-- COMMAND [ARG...]]",
		Short: "Write a config.json to start from",
		Long: `Write a config.json for a bundle whose root filesystem is the directory rootfs
beside it. The command defaults to sh. An existing file is not overwritten.`,
		Example: `  mkdir -p shell/rootfs/bin && cp /bin/busybox shell/rootfs/bin/
  sbxmigrate spec --bundle shell -- /bin/busybox sh -c 'echo hello'
  sbxmigrate run --bundle shell hello`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSpec(cmd.Context(), c, opts, args)
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runSpec(_ context.Context, _ *cli, opts specOptions, args []string) error {
	data, err := json.MarshalIndent(newSpec(opts, args), "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(opts.bundle, "config.json")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: remove it first", path)
	}
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// newSpec is what runc's spec command writes, less what has no meaning here.
func newSpec(opts specOptions, args []string) *specs.Spec {
	if len(args) == 0 {
		args = []string{"sh"}
	}
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "sandbox",
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal:        opts.terminal,
			Args:            args,
			Cwd:             "/",
			Env:             []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: opts.netns}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
