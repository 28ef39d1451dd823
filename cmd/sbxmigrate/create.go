package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newCreateCommand(c *cli) *cobra.Command {
	var opts launchOptions
	cmd := &cobra.Command{
		Use:   "create [flags] ID",
		Short: "Create a sandbox from a bundle, ready to be started",
		Long: `Create a sandbox from a bundle. Its container has our standard streams, or a
terminal whose master end goes to --console-socket. The process in the pid file
exits with the container's status.

With --sandbox, or annotations of Kubernetes' container managers that say so, it is
a further container of a sandbox that runs.`,
		Example: `  sbxmigrate create --bundle ./redis --pid-file redis.pid redis
  sbxmigrate create --bundle ./web --sandbox redis web
  sbxmigrate start redis`,
		Args: idArg(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCreate(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runCreate(ctx context.Context, c *cli, opts launchOptions, id string) error {
	opts.detach = true
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	bundle, err := opts.loadBundle(opts.bundle)
	if err != nil {
		return err
	}
	_, st, err := c.launch(ctx, id, bundle, opts)
	if err != nil {
		return err
	}
	st.close()
	return nil
}
