package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type mountsOptions struct {
	tableOptions
	overlay string
	lenient bool
}

func (o *mountsOptions) addFlags(f *pflag.FlagSet) {
	o.tableOptions.addFlags(f, false)
	f.StringVar(&o.overlay, "overlay", overlayDefault, "as of run: none, root or all")
	f.BoolVar(&o.lenient, "lenient", false, "leave mounts of unknown type out, with a warning")
}

func newMountsCommand(c *cli) *cobra.Command {
	var opts mountsOptions
	cmd := &cobra.Command{
		Use:   "mounts [flags] BUNDLE",
		Short: "Print the mounts that a bundle gives, and what of this host is behind them",
		Long: `Print the mounts that a sandbox of this bundle has, in mount order, with their
device names. For what a gofer serves, also what of this host holds it, and
whether it can be on another host at the same time: shared storage can, a local
disk cannot without a copy.`,
		Example: "  sbxmigrate mounts ./redis",
		Args:    exactArgs(1, "one bundle directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMounts(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

// shownMount is a compiled mount with what holds its source on this host.
type shownMount struct {
	mounts.Mount
	Host *mounts.HostFacts `json:"host,omitempty"`
}

func runMounts(_ context.Context, c *cli, opts mountsOptions, dir string) error {
	overlay, err := parseOverlay(opts.overlay)
	if err != nil {
		return err
	}
	bundle, err := sandbox.LoadBundle(dir)
	if err != nil {
		return err
	}
	list, err := mounts.Compile(bundle.Spec, mounts.Options{Bundle: bundle.Dir, Overlay: overlay, Lenient: opts.lenient})
	if err != nil {
		return fmt.Errorf("%w: %w", sandbox.ErrBundle, err)
	}
	for _, warning := range list.Warnings {
		c.warn(warning.String())
	}
	shown, err := withHostFacts(list)
	if err != nil {
		return err
	}
	if opts.json {
		return c.printJSON(shown)
	}
	rows := make([]string, len(shown))
	for i, m := range shown {
		rows[i] = m.row()
	}
	return printTable(c.stdout, "DESTINATION\tDEVICE\tFILESYSTEM\tOPTIONS\tSOURCE\tHELD BY\tELSEWHERE", rows)
}

func withHostFacts(list *mounts.List) ([]shownMount, error) {
	table, err := mounts.ReadTable()
	if err != nil {
		return nil, err
	}
	shown := make([]shownMount, len(list.Mounts))
	for i, m := range list.Mounts {
		shown[i].Mount = m
		if m.Source == "" {
			continue
		}
		facts, err := table.Facts(m.Source)
		if err != nil {
			return nil, err
		}
		shown[i].Host = &facts
	}
	return shown, nil
}

// row is one line of the table.
func (m shownMount) row() string {
	options := "rw"
	if m.Flags.ReadOnly {
		options = "ro"
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{m.Flags.NoATime, "noatime"}, {m.Flags.NoExec, "noexec"}, {m.Flags.NoSUID, "nosuid"}, {m.Flags.NoDev, "nodev"},
		{m.Overlay, "overlay"}, {m.Data != "", m.Data},
	} {
		if flag.set {
			options += "," + flag.name
		}
	}
	source, heldBy, elsewhere := "-", "the sandbox", "travels along"
	if h := m.Host; h != nil {
		source = m.Source
		heldBy = fmt.Sprintf("%s on %s (%d:%d, %s)", h.MountPoint, h.Device, h.Major, h.Minor, h.FSType)
		elsewhere = "needs a copy"
		if h.CanFollow {
			elsewhere = "shared storage"
		}
	}
	return strings.Join([]string{m.Destination, m.Device, m.Filesystem, options, source, heldBy, elsewhere}, "\t")
}
