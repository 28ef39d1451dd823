package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type restoreOptions struct {
	streamOptions
	fitOptions
	imageOptions
	furtherOptions
	bundles  []string
	platform string
	keep     bool
	json     bool
	quiet    bool
}

func (o *restoreOptions) addFlags(f *pflag.FlagSet) {
	o.streamOptions.addFlags(f)
	o.addDetachFlag(f)
	o.fitOptions.addFlags(f)
	o.imageOptions.addFlags(f)
	o.furtherOptions.addFlags(f)
	f.StringArrayVarP(&o.bundles, "bundle", "b", nil, "`directory` with the config.json and root filesystem to restore over (default .); NAME=DIR for a further container (repeatable)")
	f.StringVar(&o.platform, "platform", "", "how guest code is run: systrap (default) or kvm")
	f.BoolVar(&o.keep, "keep", false, "do not delete the sandbox when its container has ended")
	f.BoolVar(&o.quiet, "no-resets", false, "do not tell the peers of connections that end here: another copy of the sandbox has them")
	f.BoolVar(&o.json, "json", false, "print the report as JSON")
	addIgnoredFlags(f)
}

func newRestoreCommand(c *cli) *cobra.Command {
	var opts restoreOptions
	cmd := &cobra.Command{
		Use:   "restore [flags] [ID]",
		Short: "Make a running sandbox out of an image",
		Long: `Make a running sandbox out of an image: under another ID, over another bundle,
in another state directory, on another host. Its processes go on where they were
stopped.

Tasks run as soon as the kernel is loaded; memory follows, what is asked for
first. With --detach the command ends when all of it is there.

The bundle must fit the saved sandbox: see the plan command. The ID is the saved
one unless another is given.

A saved sandbox of several containers comes back with all of them. Each needs a
bundle, and has an ID of its own. What the further ones print goes to our own
output or to --container-output.

Under other addresses (--policy relaxed) connections of the saved ones end. Each is
named, and its peer gets a reset, unless the saved sandbox went on
(checkpoint --leave-running) or --no-resets is given.`,
		Example: `  sbxmigrate restore --image /var/lib/images:web --bundle ./web --detach web2
  sbxmigrate restore --image /var/lib/images --map /data=/mnt/data
  sbxmigrate restore --image /var/lib/images:pod --bundle ./pod --bundle web=./web --container-id web=web2 pod2`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			return runRestore(cmd.Context(), c, opts, id)
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runRestore(ctx context.Context, c *cli, opts restoreOptions, id string) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	ref, err := opts.reference()
	if err != nil {
		return err
	}
	img, err := openImage(ctx, ref)
	if err != nil {
		return err
	}
	defer img.Close()
	if id == "" {
		id = img.Config().SandboxID
	}
	plan, err := opts.planOptions(img, opts.bundles)
	if err != nil {
		return err
	}
	further, err := opts.furtherOptions.of(img.Config())
	if err != nil {
		return err
	}
	defer closeFurther(further)
	r, st, err := c.restore(ctx, id, ref, plan, opts, further)
	if err != nil {
		return interruption(ctx, err)
	}
	defer st.close()
	cleanup := context.WithoutCancel(ctx)
	report, err := r.Wait(ctx)
	if err != nil {
		return errors.Join(interruption(ctx, err), r.Sandbox.DeleteWhole(cleanup))
	}
	if err := c.reportRestore(r.Sandbox, report, opts.json); err != nil || opts.detach {
		return err
	}
	if len(further) == 0 {
		return c.follow(ctx, r.Sandbox, st, signals, opts.keep)
	}
	err = c.follow(ctx, r.Sandbox, st, signals, true)
	if !opts.keep {
		err = errors.Join(err, r.Sandbox.DeleteWhole(cleanup))
	}
	return err
}

// restore restores with the streams that the options ask for. The caller
// closes them.
func (c *cli) restore(ctx context.Context, id string, ref image.Reference, plan checkpoint.PlanOptions, opts restoreOptions, further []*furtherContainer) (_ *checkpoint.Restoring, _ *streams, err error) {
	process := plan.Bundle.Spec.Process
	st, err := c.openStreams(id, process.Terminal, process.ConsoleSize, opts.streamOptions)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	furtherCreate, err := c.openFurther(further, plan.Further)
	if err != nil {
		return nil, nil, err
	}
	stdio, preserved := st.stdio, st.preserved
	st.givenAway()
	r, err := checkpoint.Restore(ctx, c.sandboxes(), checkpoint.RestoreOptions{
		PlanOptions: plan, From: ref.String(), Quiet: opts.quiet, FurtherCreate: furtherCreate,
		Create: sandbox.CreateOptions{
			ID: id, Stdio: stdio, Preserved: preserved, PIDFile: opts.pidFile, Platform: opts.platform, Debug: c.debug,
		},
	})
	if err != nil {
		return nil, nil, err
	}
	c.warn(r.Report.Warnings...)
	if err := errors.Join(st.attach(containerPID, opts.streamOptions), attachFurther(further)); err != nil {
		return nil, nil, errors.Join(err, r.Sandbox.DeleteWhole(context.WithoutCancel(ctx)))
	}
	return r, st, nil
}

func (c *cli) reportRestore(s *sandbox.Sandbox, report *checkpoint.RestoreReport, json bool) error {
	for _, f := range report.Findings {
		c.warn("accepted: " + f.String())
	}
	for _, f := range report.Connections {
		if !f.Kept {
			c.warn("connection " + f.String())
		}
	}
	if json {
		return printJSON(c.stdout, report)
	}
	fmt.Fprintf(c.stderr, "restored %s: %s of memory\n", s.ID, bytesText(uint64(report.BytesPlaced)))
	c.printPhases(report.Phases)
	return nil
}
