package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type killOptions struct {
	all bool
	pid int32
}

func (o *killOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.all, "all", "a", false, "send the signal to every process inside")
	f.Int32Var(&o.pid, "pid", 0, "send the signal to this `process` inside instead of the first one")
}

func newKillCommand(c *cli) *cobra.Command {
	var opts killOptions
	cmd := &cobra.Command{
		Use:   "kill [flags] ID [SIGNAL]",
		Short: "Send a signal to a sandbox's container (default TERM)",
		Long: `Send a signal, by name or number, to the container's first process.

KILL ends the sandbox process itself, so that it works on a sandbox whose kernel
is stuck. For a further container of a sandbox it ends all of that container's
processes, and nothing else.`,
		Example: `  sbxmigrate kill redis
  sbxmigrate kill redis KILL
  sbxmigrate kill --all redis SIGUSR1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usageError("%q wants a sandbox ID and at most one signal, got %d arguments", cmd.CommandPath(), len(args))
			}
			return nil
		},
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "TERM"
			if len(args) > 1 {
				name = args[1]
			}
			return runKill(cmd.Context(), c, opts, args[0], name)
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runKill(ctx context.Context, c *cli, opts killOptions, id, signalName string) error {
	signal, err := parseSignal(signalName)
	if err != nil {
		return err
	}
	s, err := c.open(id)
	if err != nil {
		return err
	}
	if opts.pid == 0 {
		return s.Signal(ctx, signal, opts.all)
	}
	if opts.all {
		return usageError("--all and --pid exclude each other")
	}
	return s.SignalProcess(ctx, opts.pid, signal, false)
}
