package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/terminal"
)

// An arrivingTerminal is a terminal whose stand-in keeps its other end, so that it
// outlives the agent. It is a migrate.Terminal.
type arrivingTerminal struct {
	console *console
	standIn *standIn
}

// openArrivingTerminal makes a terminal for a process of a sandbox that arrives. It
// owns log, which may be nil.
func (c *cli) openArrivingTerminal(id string, log *os.File) (_ migrate.Terminal, err error) {
	if log == nil {
		if log, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			return nil, err
		}
	}
	defer log.Close()
	t := &arrivingTerminal{}
	if t.console, err = openConsole(nil); err != nil {
		return nil, err
	}
	t.standIn, err = c.startStandInWith(id, t.console.slave, []*os.File{t.console.master, log})
	if err != nil {
		t.console.close()
		return nil, err
	}
	// It ends when it is let go of, or with the process that it is told to stand for.
	go t.standIn.cmd.Wait()
	return t, nil
}

// Slave implements migrate.Terminal.
func (t *arrivingTerminal) Slave() *os.File {
	slave := t.console.slave
	t.console.slave = nil
	return slave
}

// Keep implements migrate.Terminal.
func (t *arrivingTerminal) Keep(state *boot.TerminalState, pid int32) error {
	// Either end takes them.
	if err := state.Apply(int(t.console.master.Fd())); err != nil {
		return err
	}
	err := t.standIn.tell(assignment{PID: pid, Alone: true, Keep: true})
	t.Close()
	return err
}

// Close implements migrate.Terminal.
func (t *arrivingTerminal) Close() {
	t.console.close()
	t.standIn.letGo()
}

// keepTerminal keeps the terminal of a process inside until that has ended, and
// returns its exit status.
func keepTerminal(ctx context.Context, s *sandbox.Sandbox, pid int32) error {
	if err := unix.SetNonblock(standInMasterFD, true); err != nil {
		return fmt.Errorf("keep terminal: %w", err)
	}
	keeper := terminal.Keep(os.NewFile(standInMasterFD, "terminal"), os.NewFile(standInLogFD, "log"))
	listener, listenErr := terminal.Listen(s.Dir(), pid)
	if listenErr == nil {
		go keeper.Serve(listener)
		defer listener.Close()
	}
	// Even if nobody can attach: somebody must read what the process writes.
	status, err := waitFor(ctx, s, pid)
	keeper.Finish(status, err)
	if err := errors.Join(listenErr, err); err != nil {
		return err
	}
	return exitStatus(status)
}
