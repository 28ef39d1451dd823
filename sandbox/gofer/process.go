package gofer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// statusReady is what a gofer process reports when it serves. Anything else is
// the text of the error that stopped it.
const statusReady = "ready"

// Process is a started gofer.
type Process struct {
	// Client are the sandbox's ends of the socket pairs, in the order of
	// Config.Mounts. They belong to the caller, who hands them to the sandbox
	// process and closes its own copies: the gofer lives as long as one is open
	// anywhere.
	Client []*os.File

	// PID is the process's ID in the caller's PID namespace. After Wait it may
	// belong to another process.
	PID int

	process *os.Process

	readyOnce sync.Once
	readyErr  error
	status    *os.File // used and closed by Ready
}

// Ready waits until the gofer serves, and returns the reason if it cannot. It
// may be called again, and then returns the same.
func (p *Process) Ready(ctx context.Context) error {
	p.readyOnce.Do(func() { p.readyErr = p.awaitReady(ctx) })
	return p.readyErr
}

func (p *Process) awaitReady(ctx context.Context) error {
	defer p.status.Close()
	stop := context.AfterFunc(ctx, func() { p.status.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(p.status, maxStatusBytes))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("wait for gofer: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("wait for gofer: %w", err)
	case len(text) == 0:
		return ErrDied
	case string(text) != statusReady:
		return fmt.Errorf("gofer: %s", text)
	}
	return nil
}

// Wait waits until the gofer has ended and returns how, if not well. It works
// only in the process that called Start, and once.
func (p *Process) Wait() error {
	state, err := p.process.Wait()
	if err != nil {
		return fmt.Errorf("wait for gofer: %w", err)
	}
	if !state.Success() {
		return fmt.Errorf("gofer: %v", state)
	}
	return nil
}

// Kill ends the gofer at once. A gofer that has ended already is no error.
func (p *Process) Kill() error {
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill gofer: %w", err)
	}
	return nil
}

// Close closes what is left of Client. The gofer ends when nobody else has
// these sockets.
func (p *Process) Close() error {
	var errs []error
	for _, f := range p.Client {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
