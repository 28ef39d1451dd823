package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

type execOptions struct {
	streamOptions
	processOptions
	ignorePaused bool
}

func (o *execOptions) addFlags(f *pflag.FlagSet) {
	o.streamOptions.addFlags(f)
	o.addDetachFlag(f)
	o.processOptions.addFlags(f)
	f.BoolVar(&o.ignorePaused, "ignore-paused", false, "on a paused sandbox, start the process once it is resumed")
}

func newExecCommand(c *cli) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] ID COMMAND [ARG...]",
		Short: "Run a further process inside a sandbox",
		Long: `Run a further process inside a running sandbox. What the flags do not say is as
in the sandbox's config.json: environment, user, capabilities, limits, directory.

Flags end at the ID: what follows belongs to the command.`,
		Example: `  sbxmigrate exec redis redis-cli ping
  sbxmigrate exec -t --user 1000:1000 --cwd /tmp shell /bin/sh
  sbxmigrate exec --process process.json --detach --pid-file job.pid shell`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("%q wants a sandbox ID", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: c.completeID,
		Annotations:       passStatus(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExec(cmd.Context(), c, opts, args[0], args[1:])
		},
	}
	opts.addFlags(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runExec(ctx context.Context, c *cli, opts execOptions, id string, args []string) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	s, err := c.open(id)
	if err != nil {
		return err
	}
	spec, err := s.Spec()
	if err != nil {
		return err
	}
	process, err := opts.process(spec.Process, args)
	if err != nil {
		return err
	}
	if opts.ignorePaused {
		if err := awaitResume(ctx, s); err != nil {
			return interruption(ctx, err)
		}
	}
	st, err := c.openStreams(id, process.Terminal, process.ConsoleSize, opts.streamOptions)
	if err != nil {
		return err
	}
	defer st.close()
	if opts.detach {
		// Somebody has to be the process in the pid file.
		if _, err := c.needStandIn(st, id); err != nil {
			return err
		}
	}
	pid, err := s.Exec(ctx, process, append(append([]*os.File{}, st.stdio...), st.preserved...))
	if err != nil {
		return interruption(ctx, err)
	}
	st.closeGiven()
	if err := st.attach(pid, opts.streamOptions); err != nil {
		return errors.Join(err, s.SignalProcess(context.WithoutCancel(ctx), pid, unix.SIGKILL, false))
	}
	if err := writeExecPID(opts.streamOptions, st); err != nil {
		return err
	}
	if opts.detach {
		return nil
	}
	return c.followExec(ctx, s, pid, st, signals)
}

// followExec stays with a process until it has ended.
func (c *cli) followExec(ctx context.Context, s *sandbox.Sandbox, pid int32, st *streams, signals *signalCatcher) error {
	// The process goes on even if we are told to end: we pass that on.
	ctx = context.WithoutCancel(ctx)
	signals.forward(func(signal unix.Signal) {
		// It may have ended meanwhile.
		var remote *control.RemoteError
		if err := s.SignalProcess(ctx, pid, signal, false); err != nil && !errors.As(err, &remote) {
			c.warn(err.Error())
		}
	})
	status, err := s.WaitProcess(ctx, pid)
	if err != nil {
		return err
	}
	st.finish()
	return exitStatus(status)
}

// writeExecPID writes the pid file: of the stand-in where the process is left in
// the background, else of this command, which exits with the process's status.
func writeExecPID(o streamOptions, st *streams) error {
	if o.pidFile == "" {
		return nil
	}
	pid := os.Getpid()
	if o.detach {
		pid = st.standIn.pid()
	}
	tmp := filepath.Join(filepath.Dir(o.pidFile), "."+filepath.Base(o.pidFile))
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "%d", pid), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return os.Rename(tmp, o.pidFile)
}

// awaitResume blocks while the sandbox is paused.
func awaitResume(ctx context.Context, s *sandbox.Sandbox) error {
	return poll(ctx, func() bool { return s.Status(ctx) != specs.ContainerState(sandbox.StatePaused) })
}
