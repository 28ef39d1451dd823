package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
)

type checkpointOptions struct {
	imageOptions
	leaveRunning bool
	compress     string
	dryRun       bool
	json         bool
}

func (o *checkpointOptions) addFlags(flags *pflag.FlagSet) {
	o.imageOptions.addFlags(flags)
	flags.BoolVar(&o.leaveRunning, "leave-running", false, "let the sandbox go on afterwards instead of ending it")
	flags.StringVar(&o.compress, "compress", string(image.CompressionZstd), "compression of memory: zstd or none")
	flags.BoolVar(&o.dryRun, "dry-run", false, "only say what stands in the way of a checkpoint right now")
	flags.BoolVar(&o.json, "json", false, "print the report as JSON")
}

func newCheckpointCommand(c *cli) *cobra.Command {
	var opts checkpointOptions
	cmd := &cobra.Command{
		Use:   "checkpoint ID --image DIR[:name]",
		Short: "Save a running sandbox into an image",
		Long: `Save a running sandbox into an image: its memory, processes, files in memory,
sockets and connections.

All of its containers are saved. The sandbox is ended once the image is durable, unless --leave-running is given.
If anything fails before, it goes on as if nothing had been asked, and there is
no image.`,
		Example: `  sbxmigrate checkpoint --image /var/lib/images:web web
  sbxmigrate checkpoint --leave-running --compress none --image /tmp/i web`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE:              func(cmd *cobra.Command, args []string) error { return runCheckpoint(cmd.Context(), c, opts, args[0]) },
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runCheckpoint(ctx context.Context, c *cli, opts checkpointOptions, id string) error {
	sb, err := c.open(id)
	if err != nil {
		return err
	}
	if opts.dryRun {
		return dryRun(ctx, c, opts, id)
	}
	ref, err := opts.reference()
	if err != nil {
		return err
	}
	switch image.Compression(opts.compress) {
	case image.CompressionZstd, image.CompressionNone:
	default:
		return usageError("--compress is %q, want zstd or none", opts.compress)
	}
	store, err := image.CreateStore(ref.Dir)
	if err != nil {
		return err
	}
	report, err := checkpoint.Save(ctx, sb, checkpoint.SaveOptions{
		Store: store, Name: ref.Name, LeaveRunning: opts.leaveRunning, Compression: image.Compression(opts.compress),
	})
	if err != nil {
		return err
	}
	c.warn(report.Warnings...)
	if opts.json {
		return printJSON(c.stdout, report)
	}
	fmt.Fprintf(c.stdout, "%s\t%s\n", ref, report.Digest)
	c.printPhases(report.Phases)
	if opts.leaveRunning {
		fmt.Fprintf(c.stderr, "tasks were stopped for %s\n", milliseconds(time.Duration(report.StoppedNanos)))
	}
	return nil
}

// dryRun prints what a checkpoint would find, and fails if it would fail.
func dryRun(ctx context.Context, c *cli, opts checkpointOptions, id string) error {
	sb, err := c.open(id)
	if err != nil {
		return err
	}
	survey, err := checkpoint.Survey(ctx, sb)
	if err != nil {
		return err
	}
	c.warn(survey.Warnings()...)
	if opts.json {
		if err := printJSON(c.stdout, survey); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.stdout, "%d processes, %s of memory at most, %d findings\n",
			len(survey.Processes), bytesText(survey.MemoryBytes), len(survey.Findings))
	}
	if len(survey.Findings) > 0 {
		return &checkpoint.UnsavableError{Findings: survey.Findings}
	}
	return nil
}

// imageOptions name an image, in our words or in runc's.
type imageOptions struct {
	criuFlags
	image     string
	imagePath string // runc's name for the same
	workPath  string // runc's; nothing is kept there
}

func (o *imageOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.image, "image", "", "the image: `DIR[:name]`")
	f.StringVar(&o.imagePath, "image-path", "", "runc's `name` for --image")
	o.criuFlags.addFlags(f)
	f.StringVar(&o.workPath, "work-path", "", "accepted as runc does; no work files are kept in `DIR`")
}

func (o *imageOptions) reference() (image.Reference, error) {
	if err := o.criuFlags.check(); err != nil {
		return image.Reference{}, err
	}
	name := o.image
	if name == "" {
		name = o.imagePath
	}
	if name == "" {
		return image.Reference{}, usageError("--image is missing: say which image, as DIR[:name]")
	}
	return image.ParseReference(name)
}

// printPhases prints the times of an operation for people.
func (c *cli) printPhases(phases checkpoint.Phases) {
	for _, phase := range phases {
		fmt.Fprintf(c.stderr, "%10s  %s\n", milliseconds(time.Duration(phase.Nanos)), phase.Name)
	}
	fmt.Fprintf(c.stderr, "%10s  total\n", milliseconds(phases.Total()))
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
