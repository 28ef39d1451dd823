package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type runOptions struct {
	launchOptions
	keep bool
}

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	o.launchOptions.addFlags(f)
	o.addDetachFlag(f)
	f.BoolVar(&o.keep, "keep", false, "do not delete the sandbox when its container has ended")
}

func newRunCommand(c *cli) *cobra.Command {
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] ID",
		Short: "Create and start a sandbox; in the foreground, wait for its end and delete it",
		Long: `Create a sandbox from a bundle and start it.

In the foreground the container has our standard streams, or our terminal if
its config.json asks for one; signals are passed on to it; and the sandbox is
deleted when the container has ended. With --sandbox it is a further container of
a sandbox that runs, and that goes on.`,
		Example: `  sbxmigrate run --bundle ./shell shell
  sbxmigrate run --detach --bundle ./redis redis >redis.log 2>&1
  sbxmigrate run --bundle ./job --sandbox redis job`,
		Args:        idArg(),
		Annotations: passStatus(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runRun(ctx context.Context, c *cli, opts runOptions, id string) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	bundle, err := opts.loadBundle(opts.bundle)
	if err != nil {
		return err
	}
	s, st, err := c.launch(ctx, id, bundle, opts.launchOptions)
	if err != nil {
		return err
	}
	defer st.close()
	// Once there is a sandbox, an interrupted command still cleans it up.
	cleanup := context.WithoutCancel(ctx)
	if err := start(ctx, s); err != nil {
		return errors.Join(interruption(ctx, err), s.Delete(cleanup, true))
	}
	if opts.detach {
		return nil
	}
	return c.follow(ctx, s, st, signals, opts.keep)
}

// startGrace is how long a start may go on when a signal comes: most likely the container is about to run, and gets it.
const startGrace = 2 * time.Second

// start starts a container unless ctx has ended. If it ends meanwhile, the start has startGrace.
func start(ctx context.Context, s *sandbox.Sandbox) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(startGrace, cancel) })()
	return s.Start(patient)
}

// follow stays with a started container until it has ended, and deletes it. Signals that came while it started are passed on.
func (c *cli) follow(ctx context.Context, s *sandbox.Sandbox, st *streams, signals *signalCatcher, keep bool) error {
	cleanup := context.WithoutCancel(ctx)
	signals.forward(func(signal unix.Signal) {
		if err := s.Signal(cleanup, signal, false); err != nil && !errors.Is(err, sandbox.ErrState) {
			c.warn(err.Error())
		}
	})
	status, err := s.Wait(cleanup)
	st.finish()
	if !keep {
		err = errors.Join(err, s.Delete(cleanup, true))
	}
	if err != nil {
		return err
	}
	return exitStatus(status)
}
