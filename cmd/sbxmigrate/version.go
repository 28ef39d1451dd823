package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// version is what this program is built from.
type version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Spec    string `json:"spec"` // of the OCI runtime
	GVisor  string `json:"gvisor"`
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

const unknownVersion = "unknown"

func readVersion() version {
	v := version{
		Version: unknownVersion, Commit: unknownVersion, GVisor: unknownVersion,
		Spec: specs.Version, Go: runtime.Version(), Arch: runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Commit = setting.Value
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == "gvisor.dev/gvisor" {
			v.GVisor = dep.Version
		}
	}
	return v
}

// versionText begins as runc's does, since container managers parse it.
func versionText(v version) string {
	return fmt.Sprintf("sbxmigrate version %s\ncommit: %s\nspec: %s\ngvisor: %s\ngo: %s\narch: %s\n",
		v.Version, v.Commit, v.Spec, v.GVisor, v.Go, v.Arch)
}

func newVersionCommand(c *cli) *cobra.Command {
	var opts tableOptions
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print what this program is built from",
		Long:    "Print what this program is built from. An image is restored by the build that made it.",
		Example: "  sbxmigrate version --json",
		Args:    exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVersion(cmd.Context(), c, opts)
		},
	}
	opts.addFlags(cmd.Flags(), false)
	return cmd
}

func runVersion(_ context.Context, c *cli, opts tableOptions) error {
	if opts.json {
		return c.printJSON(readVersion())
	}
	_, err := fmt.Fprint(c.stdout, versionText(readVersion()))
	return err
}
