package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/convergence"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
)

type migrateOptions struct {
	dataOptions
	fitOptions
	peer        string
	bundles     []string
	sendBundle  bool
	mode        string
	maxDowntime time.Duration
	timeout     time.Duration
	onTimeout   string
	throttle    int
	connections int
	compress    string
	bandwidth   float64
	verify      bool
	progress    string
	json        bool
}

func newMigrateCommand(c *cli) *cobra.Command {
	var opts migrateOptions
	cmd := &cobra.Command{
		Use:   "migrate ID HOST:PORT",
		Short: "Move a running sandbox to another host",
		Long: `Move a running sandbox to another host, where an agent must listen: its memory,
processes, files in memory, sockets and connections, with all its containers. It works meanwhile, but for
a short stop at the end. With postcopy, which is in hybrid too, it needs both
hosts until all of its memory has come: while the link is lost, tasks that need
memory wait.

If anything fails before the sandbox is handed over, it goes on here as if nothing
had been asked. Afterwards it runs there and nowhere else; what is left of it here
says so until it is deleted. A hand-over whose answer is lost is finished by this
host's agent.`,
		Example: `  sbxmigrate migrate web 10.0.0.2:7443
  sbxmigrate migrate --peer b --bundle /srv/bundles/web --max-downtime 100ms web 10.0.0.2:7443
  sbxmigrate migrate --bundle /srv/pod --bundle db=/srv/db pod 10.0.0.2:7443`,
		Args:              exactArgs(2, "a sandbox ID and the address of an agent"),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMigrate(cmd.Context(), c, opts, args[0], args[1])
		},
	}
	f := cmd.Flags()
	opts.dataOptions.addFlags(f)
	opts.fitOptions.addFlags(f)
	f.StringVar(&opts.peer, "peer", "", "`name` under which the other host's key is trusted; not needed where it is clear")
	f.StringArrayVarP(&opts.bundles, "bundle", "b", nil, "`directory` of the bundle on the other host (default: the same as here); NAME=DIR for a further container (repeatable)")
	f.BoolVar(&opts.sendBundle, "send-bundle", false, "send the bundle along: config.json, and the root filesystem, which the sandbox must not write to")
	f.StringVar(&opts.mode, "mode", string(migrate.PreCopy), "when memory moves: precopy, while the sandbox works; postcopy, after it runs there; hybrid, once before and the rest after; or stop")
	f.DurationVar(&opts.maxDowntime, "max-downtime", convergence.DefaultMaxDowntime, "longest predicted stop to go ahead with")
	f.DurationVar(&opts.timeout, "timeout", convergence.DefaultTimeout, "how long memory may move before that")
	f.StringVar(&opts.onTimeout, "on-timeout", string(convergence.Abort), "what then: abort, postcopy, or stop however long that takes")
	f.IntVar(&opts.throttle, "throttle", 0, "most `percent` of its time to take from a sandbox whose memory changes too fast; 0 to 95")
	f.IntVar(&opts.connections, "connections", 0, "`number` of data connections (default: by CPUs, at most 4)")
	f.StringVar(&opts.compress, "compress", wire.CodecAuto.String(), "compression of memory: auto, zstd or none")
	f.Float64Var(&opts.bandwidth, "bandwidth", 0, "most `MiB/s` to send; 0: any")
	f.BoolVar(&opts.verify, "verify", false, "compare all memory with what was sent, in the stop")
	f.StringVar(&opts.progress, "progress", "", "how progress is shown: json, or none (default: on a terminal, as text)")
	f.BoolVar(&opts.json, "json", false, "print the report as JSON")
	return cmd
}

func runMigrate(ctx context.Context, c *cli, opts migrateOptions, id, address string) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	sb, err := c.open(id)
	if err != nil {
		return err
	}
	if err := sb.NeedWhole("migrate"); err != nil {
		return err
	}
	o, err := opts.migration(address)
	if err != nil {
		return err
	}
	o.Root = c.sandboxes()
	if o.OnEvent, err = c.progress(opts.progress); err != nil {
		return err
	}
	steering, err := migrate.Steer(opts.sockets(), id)
	if err != nil {
		return err
	}
	defer steering.Close()
	show := o.OnEvent
	o.Canceller, o.OnEvent = &steering.Canceller, func(e migrate.Event) {
		steering.Note(e)
		if show != nil {
			show(e)
		}
	}
	report, err := migrate.Migrate(ctx, sb, o)
	keepErr := keepReport(opts.reports(), report)
	if keepErr != nil {
		c.warn(keepErr.Error())
	}
	if err != nil {
		return interruption(ctx, err)
	}
	c.warn(report.Warnings...)
	for _, f := range report.Connections {
		if !f.Kept {
			c.warn("connection " + f.Connection + ": closed: " + f.Reason)
		}
	}
	if opts.json {
		return migrate.WriteReport(c.stdout, report)
	}
	fmt.Fprintf(c.stdout, "%s runs on %s now: it stood still for %s of %s\n", id, report.Peer,
		milliseconds(time.Duration(report.Downtime)), milliseconds(time.Duration(report.Total)))
	return nil
}

// migration turns the flags into options.
func (o *migrateOptions) migration(address string) (m migrate.Options, err error) {
	m = migrate.Options{
		Address: address, Journals: o.journals(), SendBundle: o.sendBundle, Mode: migrate.Mode(o.mode),
		Budget: convergence.Budget{
			MaxDowntime: o.maxDowntime, Timeout: o.timeout, OnTimeout: convergence.OnTimeout(o.onTimeout), MaxThrottlePercent: o.throttle,
		},
		DataConnections: o.connections, BytesPerSecond: o.bandwidth * (1 << 20), Verify: o.verify,
	}
	if m.Bundle, m.Further, err = splitBundles(o.bundles, ""); err != nil {
		return m, err
	}
	if o.sendBundle && len(o.bundles) > 0 {
		return m, usageError("--bundle names one that is there, and --send-bundle sends one: give one of them")
	}
	switch m.Mode {
	case migrate.PreCopy, migrate.PostCopy, migrate.Hybrid, migrate.StopAndCopy:
	default:
		return m, usageError("--mode is %q, want precopy, postcopy, hybrid or stop", o.mode)
	}
	switch m.Budget.OnTimeout {
	case convergence.Abort, convergence.PostCopy, convergence.Stop:
	default:
		return m, usageError("--on-timeout is %q, want abort, postcopy or stop", o.onTimeout)
	}
	if o.throttle < 0 || o.throttle > convergence.MostThrottlePercent {
		return m, usageError("--throttle is %d, want 0 to %d", o.throttle, convergence.MostThrottlePercent)
	}
	if o.connections < 0 || o.connections > wire.MaxDataConnections {
		return m, usageError("--connections is %d, want 1 to %d", o.connections, wire.MaxDataConnections)
	}
	if m.Codec, err = wire.ParseCodec(o.compress); err != nil {
		return m, usageError("--compress: %v", err)
	}
	if m.Policy, err = restoreenv.ParsePolicy(o.policy); err != nil {
		return m, usageError("--policy: %v", err)
	}
	if m.Map, err = restoreenv.ParseMap(o.maps); err != nil {
		return m, usageError("--map: %v", err)
	}
	if m.Identity, err = o.keys().Identity(); err != nil {
		return m, err
	}
	m.Peer, err = peerFor(o.keys(), o.peer, address)
	return m, err
}

// progress returns what shows how a migration goes.
func (c *cli) progress(how string) (func(migrate.Event), error) {
	switch how {
	case "json":
		return func(e migrate.Event) { migrate.WriteEvent(c.stderr, e) }, nil
	case "none":
		return nil, nil
	case "":
	default:
		return nil, usageError("--progress is %q, want json or none", how)
	}
	width, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil {
		return nil, nil // not a terminal
	}
	return func(e migrate.Event) {
		fmt.Fprintf(c.stderr, "\r\x1b[K%s", migrate.Line(e, width))
		if e.Phase.Final() {
			fmt.Fprintln(c.stderr)
		}
	}, nil
}

// keepReport keeps the newest report about a sandbox.
func keepReport(dir string, report migrate.Report) (err error) {
	if err := mustExist(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, report.Sandbox+".json")
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	defer f.Close()
	if err := migrate.WriteReport(f, report); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
