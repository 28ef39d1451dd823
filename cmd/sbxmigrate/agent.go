package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
)

type agentOptions struct {
	dataOptions
	listen     string
	bundles    []string
	migrations int
	memory     uint64
	maxBundle  uint64
	metrics    string
}

func newAgentCommand(c *cli) *cobra.Command {
	var opts agentOptions
	cmd := &cobra.Command{
		Use:   "agent --listen ADDR",
		Short: "Receive sandboxes from other hosts",
		Long: `Receive sandboxes from other hosts, and go on with migrations whose command has
ended.

Only hosts whose keys are trusted are talked to: see the key command. A sandbox
that arrives runs over the bundle at the path that it had, or that the source
names, or that --bundle says, or one that the source sends along, if --max-bundle
allows that: it is kept in DATA/bundles as long as the sandbox. What it prints goes to DATA/outputs/ID.log.

The agent prints the address that it listens on, and ends on SIGTERM or SIGINT;
sandboxes that run go on.`,
		Example: `  sbxmigrate agent --listen :7443
  sbxmigrate agent --listen 10.0.0.2:7443 --bundle web=/srv/bundles/web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), c, opts) },
	}
	f := cmd.Flags()
	opts.dataOptions.addFlags(f)
	f.StringVar(&opts.listen, "listen", ":7443", "`address` to listen on")
	f.StringArrayVar(&opts.bundles, "bundle", nil, "directory of the bundle for a sandbox: `ID=DIR`")
	f.IntVar(&opts.migrations, "max-migrations", 4, "how many sandboxes may arrive at a `time`")
	f.Uint64Var(&opts.memory, "max-memory", 0, "how much memory arriving sandboxes may have together, in `bytes`; 0: any")
	f.Uint64Var(&opts.maxBundle, "max-bundle", 0, "how large a bundle that a source sends along may be, in `bytes`; 0: none is taken")
	f.StringVar(&opts.metrics, "metrics", "", "serve Prometheus metrics at this `address`, without authentication; empty: nowhere")
	return cmd
}

func runAgent(ctx context.Context, c *cli, opts agentOptions) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	bundles, err := parseMapping("--bundle", opts.bundles)
	if err != nil {
		return err
	}
	identity, err := opts.keys().Identity()
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(c.stderr, nil))
	receiver := &migrate.Receiver{
		Root: c.sandboxes(), Journals: opts.journals(), Outputs: opts.outputs(), Bundles: bundles, OpenTerminal: c.openArrivingTerminal, StandIns: c.standInOf,
		Identity: identity, Keys: opts.keys(), Logger: logger,
	}
	if receiver.BundleDir, err = filepath.Abs(opts.bundleDir()); err != nil {
		return err
	}
	receiver.MaxBundleBytes = opts.maxBundle
	a, err := agent.New(agent.Options{
		Identity: identity, Trust: opts.keys(), Handle: receiver.Handle, Logger: logger,
		Limits: agent.Limits{Migrations: opts.migrations, MemoryBytes: opts.memory},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", opts.listen)
	if err != nil {
		return err
	}
	if err := receiver.SweepBundles(); err != nil {
		logger.Warn("bundles of sandboxes that are gone may be left", "error", err)
	}
	if opts.metrics != "" {
		stop, err := serveMetrics(opts.metrics, a, receiver)
		if err != nil {
			listener.Close()
			return err
		}
		defer stop()
	}
	fmt.Fprintln(c.stdout, listener.Addr())
	recovering, stop := context.WithCancel(ctx)
	recovered := make(chan struct{})
	go func() {
		defer close(recovered)
		receiver.Recover(recovering)
	}()
	err = a.Serve(ctx, listener)
	stop()
	<-recovered
	return err
}

// parseMapping understands a flag whose values are NAME=VALUE.
func parseMapping(flag string, values []string) (map[string]string, error) {
	mapping := make(map[string]string)
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" || value == "" {
			return nil, usageError("%s %q: want NAME=VALUE", flag, v)
		}
		mapping[name] = value
	}
	return mapping, nil
}
