package main

import (
	"context"
	"os"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"
)

func newFeaturesCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "features",
		Short:   "Print what of the OCI runtime specification is offered",
		Example: "  sbxmigrate features | jq .linux.namespaces",
		Args:    exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFeatures(cmd.Context(), c)
		},
	}
}

func runFeatures(_ context.Context, c *cli) error { return c.printJSON(offered()) }

// offered is what a bundle may ask for and gets. What is missing in it gives a
// warning or an error when a bundle asks for it.
func offered() *features.Features {
	no := false
	_, statErr := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	unified := statErr == nil
	legacy := !unified
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "poststart", "poststop"},
		MountOptions: []string{
			"bind", "rbind", "ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime",
		},
		Linux: &features.Linux{
			Namespaces:      []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
			Capabilities:    capabilityNames(),
			Cgroup:          &features.Cgroup{V1: &legacy, V2: &unified, Systemd: &no, SystemdUser: &no, Rdma: &no},
			Seccomp:         &features.Seccomp{Enabled: &no},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &no}},
		},
		Annotations: map[string]string{
			"org.opencontainers.runtime-spec.checkpoint.enabled": "true",
			"dev.sbxmigrate.gvisor.version":                      readVersion().GVisor,
		},
	}
}

func capabilityNames() []string {
	known := capability.ListKnown()
	names := make([]string, len(known))
	for i, c := range known {
		names[i] = "CAP_" + strings.ToUpper(c.String())
	}
	return names
}
