package main

import (
	"cmp"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// fitOptions are what plan and restore have in common: how a saved sandbox may
// be fitted to this host.
type fitOptions struct {
	namespaceOption
	policy string
	maps   []string
}

func (o *fitOptions) addFlags(flags *pflag.FlagSet) {
	o.namespaceOption.addFlags(flags)
	flags.StringVar(&o.policy, "policy", string(restoreenv.PolicyStrict), "strict: any difference refuses; relaxed: extra mounts, changed sources and other addresses are accepted")
	flags.StringArrayVar(&o.maps, "map", nil, "back a mount with another path here: `DESTINATION=SOURCE`, in all containers, or NAME:DESTINATION=SOURCE in one (repeatable)")
}

// planOptions opens the bundles, the first container's and others as NAME=DIR, and reads
// the flags. The image is the caller's.
func (o *fitOptions) planOptions(img *image.Image, bundles []string) (checkpoint.PlanOptions, error) {
	policy, err := restoreenv.ParsePolicy(o.policy)
	if err != nil {
		return checkpoint.PlanOptions{}, usageError("--policy: %v", err)
	}
	opts := checkpoint.PlanOptions{Image: img, Policy: policy}
	if opts.Map, err = restoreenv.ParseMap(o.maps); err != nil {
		return checkpoint.PlanOptions{}, usageError("--map: %v", err)
	}
	first, further, err := splitBundles(bundles, ".")
	if err != nil {
		return checkpoint.PlanOptions{}, err
	}
	if opts.Bundle, err = o.loadBundle(first); err != nil {
		return opts, err
	}
	opts.Further = make(map[string]*sandbox.Bundle)
	for name, dir := range further {
		if opts.Further[name], err = sandbox.LoadBundle(dir); err != nil {
			return opts, fmt.Errorf("container %q: %w", name, err)
		}
	}
	return opts, nil
}

func newPlanCommand(c *cli) *cobra.Command {
	var fit fitOptions
	var json bool
	cmd := &cobra.Command{
		Use:   "plan IMAGE BUNDLE [NAME=BUNDLE...]",
		Short: "Say what would back a saved sandbox here, and what stands in the way",
		Long: `Say for every mount of a saved sandbox what will back it on this host, set its
network beside that of this host, say what becomes of each of its connections, and
list every difference at once. Nothing is started or changed. The exit status is 0
exactly when a restore would go ahead.

A saved sandbox of several containers needs a bundle for each: the first
container's alone, the others' with their names.`,
		Example: `  sbxmigrate plan /var/lib/images:web ./web
  sbxmigrate plan --map /data=/mnt/data --json /var/lib/images:web ./web
  sbxmigrate plan --map db:/data=/mnt/data /var/lib/images:pod ./pod web=./web db=./db`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError("%q wants an image and a bundle, got %d arguments", cmd.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd.Context(), args[0], func(_ image.Reference, img *image.Image) error {
				opts, err := fit.planOptions(img, args[1:])
				if err != nil {
					return err
				}
				return runPlan(c, opts, json)
			})
		},
	}
	fit.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&json, "json", false, "print the plan as JSON")
	return cmd
}

func runPlan(c *cli, opts checkpoint.PlanOptions, json bool) error {
	plan, err := checkpoint.MakePlan(opts)
	if err != nil {
		return err
	}
	if json {
		err = printJSON(c.stdout, plan)
	} else {
		err = printPlan(c, plan)
	}
	if err == nil && plan.Refuses() {
		err = &checkpoint.RefusedError{Plan: plan}
	}
	return err
}

func printPlan(c *cli, plan *checkpoint.Plan) error {
	table := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	several := plan.Several()
	if several {
		fmt.Fprint(table, "CONTAINER\t")
	}
	fmt.Fprintln(table, "MOUNT\tFILESYSTEM\tDEVICE\tBACKED BY")
	for _, m := range plan.Mounts {
		backing := "the saved kernel"
		if m.Served() {
			backing = m.Source
			if m.ReadOnly {
				backing += " (read-only)"
			}
			if m.Mapped {
				backing += " (mapped)"
			}
		}
		// The image says what these are: nobody here has chosen their names.
		if several {
			fmt.Fprint(table, printable(m.Container)+"\t")
		}
		fmt.Fprintln(table, printable(fmt.Sprintf("%s\t%s\t%s\t%s", m.Destination, m.Filesystem, m.Device, backing)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := printNetwork(c, plan); err != nil {
		return err
	}
	for _, f := range plan.Findings {
		mark := "accepted"
		if f.Refuses {
			mark = "REFUSED"
		}
		fmt.Fprintf(c.stdout, "%s %s\n", mark, printable(f.String()))
	}
	return nil
}

// printNetwork sets both networks side by side and says what becomes of the
// connections.
func printNetwork(c *cli, plan *checkpoint.Plan) error {
	table := tabwriter.NewWriter(c.stdout, 0, 8, 2, ' ', 0)
	if len(plan.Network) > 0 {
		fmt.Fprintln(table, "\nINTERFACE\tWHAT\tSAVED\tHERE")
	}
	for _, r := range plan.Network {
		fmt.Fprintln(table, printable(fmt.Sprintf("%s\t%s\t%s\t%s", r.Link, r.What, cmp.Or(r.Sandbox, "-"), cmp.Or(r.Host, "-"))))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(plan.Connections) > 0 {
		fmt.Fprintln(table, "\nCONNECTION\tFATE\tWHY")
	}
	for _, f := range plan.Connections {
		fate := "closed"
		if f.Kept {
			fate = "kept"
		}
		fmt.Fprintln(table, printable(fmt.Sprintf("%v\t%s\t%s", f.Connection, fate, f.Reason)))
	}
	return table.Flush()
}
