package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/terminal"
)

// defaultDetachKeys are those of other container tools.
const defaultDetachKeys = "ctrl-p,ctrl-q"

type attachOptions struct {
	pid  int32
	keys string
}

func newAttachCommand(c *cli) *cobra.Command {
	var opts attachOptions
	cmd := &cobra.Command{
		Use:   "attach ID",
		Short: "Sit down at the terminal of a sandbox that came here by a migration",
		Long: `Sit down at the terminal of a sandbox that came here by a migration. What its
container showed since then, or since somebody was attached last, is shown first,
the newest 64 KiB of it; logs --output has all of it.

The detach keys leave the terminal and what runs there as they are. Only one can be
attached: the next takes the terminal over.

With --pid, it is the terminal of a process that exec -t started before the
migration. The PID is the one inside: see ps.`,
		Example: `  sbxmigrate attach shell
  sbxmigrate attach --detach-keys ctrl-a,d shell`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		Annotations:       passStatus(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAttach(cmd.Context(), c, opts, args[0])
		},
	}
	f := cmd.Flags()
	f.Int32Var(&opts.pid, "pid", containerPID, "the `process` whose terminal it is; 0 is the container's first")
	f.StringVar(&opts.keys, "detach-keys", defaultDetachKeys, "`keys` that detach, such as ctrl-p,ctrl-q; empty: none")
	return cmd
}

func runAttach(ctx context.Context, c *cli, opts attachOptions, id string) error {
	keys, err := terminal.ParseKeys(opts.keys)
	if err != nil {
		return usageError("--detach-keys: %v", err)
	}
	s, err := c.open(id)
	if err != nil {
		return err
	}
	conn, err := terminal.Dial(s.Dir(), opts.pid)
	if errors.Is(err, terminal.ErrNone) {
		return noTerminal(s, opts.pid)
	}
	if err != nil {
		return fmt.Errorf("attach to sandbox %q: %w", id, err)
	}
	// A signal detaches.
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sizes, restore, err := takeTerminal()
	if err != nil {
		conn.Close()
		return err
	}
	status, err := terminal.Attach(conn, terminal.AttachOptions{In: os.Stdin, Out: os.Stdout, DetachKeys: keys, Sizes: sizes})
	restore()
	switch {
	case ctx.Err() != nil:
		return interruption(ctx, err)
	case errors.Is(err, terminal.ErrDetached):
		fmt.Fprintf(c.stderr, "detached from %s\n", id)
		return nil
	case err != nil:
		return fmt.Errorf("attach to sandbox %q: %w", id, err)
	}
	return exitStatus(status)
}

// noTerminal says why nobody keeps a terminal for a process.
func noTerminal(s *sandbox.Sandbox, pid int32) error {
	if pid == containerPID && s.Terminal {
		return fmt.Errorf("attach to sandbox %q: %w: its terminal is with the command, or at the console socket, that it was started with", s.ID, sandbox.ErrState)
	}
	return fmt.Errorf("attach to sandbox %q: %w: no terminal of process %d is kept here", s.ID, sandbox.ErrState, pid)
}

// takeTerminal puts our own terminal, if we have one, into raw mode until restore is
// called, and gives its sizes, the present one first.
func takeTerminal() (sizes <-chan unix.Winsize, restore func(), err error) {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return nil, func() {}, nil
	}
	before, err := term.MakeRaw(in)
	if err != nil {
		return nil, nil, fmt.Errorf("put terminal into raw mode: %w", err)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	changed <- unix.SIGWINCH
	out, done := make(chan unix.Winsize), make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
			case <-done:
				return
			}
			size, err := terminalSize(os.Stdin)
			if err != nil {
				continue
			}
			select {
			case out <- *size:
			case <-done:
				return
			}
		}
	}()
	return out, func() {
		signal.Stop(changed)
		close(done)
		term.Restore(in, before)
	}, nil
}
