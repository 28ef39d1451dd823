package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// How long commands wait for a sandbox's kernel, which may be wedged.
const (
	statusTimeout = 2 * time.Second
	callTimeout   = 10 * time.Second
)

// StatePaused is runc's name for a container whose tasks are stopped; the
// runtime specification has none.
const StatePaused specs.ContainerState = "paused"

// Status says where the sandbox is in its life. A sandbox process that lives
// but does not answer is running as far as anyone can tell.
func (s *Sandbox) Status(ctx context.Context) specs.ContainerState {
	if s.beingRestored() {
		return specs.StateCreating
	}
	if !s.Sandbox.Alive() {
		return specs.StateStopped
	}
	if s.Creating {
		return specs.StateCreating
	}
	var status control.Status
	which := s.which()
	err := control.Call(ctx, s.processDir(), statusTimeout, control.MethodStatus, &which, &status)
	switch {
	case err == nil:
		return specs.ContainerState(status.Status)
	case errors.Is(err, control.ErrUnreachable) && !s.Sandbox.Alive():
		return specs.StateStopped
	case s.migratedError() != nil:
		return specs.StateStopped // it is just being ended, and ran for the last time before it moved
	default:
		return specs.StateRunning
	}
}

// beingRestored says whether this is a container of a sandbox that somebody is restoring and that has no process yet.
func (s *Sandbox) beingRestored() bool {
	return s.Creating && s.Sandbox == Process{} && s.Maker.Alive()
}

// State returns the sandbox's state as the runtime specification puts it.
func (s *Sandbox) State(ctx context.Context) *specs.State { return s.ociState(s.Status(ctx)) }

// Start lets a created container run.
func (s *Sandbox) Start(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if s.Creating || !s.Sandbox.Alive() {
		return s.need(ctx, "start", specs.StateCreated)
	}
	// It is asked for its state only where it refuses: who waits for the start of one that migrates, waits for this.
	which := s.which()
	if err := s.call(ctx, control.MethodStart, &which, &control.None{}); err != nil {
		if refused := s.need(ctx, "start", specs.StateCreated); refused != nil {
			return refused
		}
		return fmt.Errorf("start sandbox %q: %w", s.ID, err)
	}
	err = s.runHooks(ctx, hookPoststart)
	for _, f := range s.restored {
		err = errors.Join(err, f.container.runHooks(ctx, hookPoststart))
	}
	if err != nil {
		// The runtime specification: the container is stopped then.
		return errors.Join(err, s.Signal(ctx, unix.SIGKILL, true))
	}
	return nil
}

// Pause stops the tasks of all of the sandbox's containers where they are.
func (s *Sandbox) Pause(ctx context.Context) error {
	if err := s.need(ctx, "pause", specs.StateRunning); err != nil {
		return err
	}
	return s.call(ctx, control.MethodPause, &control.None{}, &control.None{})
}

// Resume undoes Pause.
func (s *Sandbox) Resume(ctx context.Context) error {
	if err := s.need(ctx, "resume", StatePaused); err != nil {
		return err
	}
	return s.call(ctx, control.MethodResume, &control.None{}, &control.None{})
}

// need refuses an operation unless the sandbox is in one of the given states.
func (s *Sandbox) need(ctx context.Context, verb string, states ...specs.ContainerState) error {
	status := s.Status(ctx)
	for _, want := range states {
		if status == want {
			return nil
		}
	}
	return fmt.Errorf("cannot %s sandbox %q: %w: it is %s, want %v", verb, s.ID, ErrState, status, states)
}

// Signal sends a signal to the container's first process, or to all of its
// processes. SIGKILL of the first container ends the sandbox process, whatever its
// kernel does.
func (s *Sandbox) Signal(ctx context.Context, signal unix.Signal, all bool) error {
	status := s.Status(ctx)
	if status == specs.StateStopped || s.beingRestored() {
		// Container managers look for these words.
		return fmt.Errorf("cannot signal sandbox %q: %w: container not running", s.ID, ErrState)
	}
	if s.Further() {
		return s.signalFurther(ctx, signal, all)
	}
	beforeStart := status == specs.StateCreated && (signal == unix.SIGTERM || signal == unix.SIGINT)
	if signal == unix.SIGKILL || beforeStart {
		return s.Sandbox.kill()
	}
	target := control.TargetProcess
	if all {
		target = control.TargetAll
	}
	args := &control.SignalArgs{Signal: int32(signal), Target: target}
	if err := s.call(ctx, control.MethodSignal, args, &control.None{}); err != nil {
		return fmt.Errorf("signal sandbox %q: %w", s.ID, err)
	}
	return nil
}

// SignalProcess sends a signal to one process of the container, or to the
// foreground process group of its terminal.
func (s *Sandbox) SignalProcess(ctx context.Context, pid int32, signal unix.Signal, foreground bool) error {
	target := control.TargetProcess
	if foreground {
		target = control.TargetForeground
	}
	return s.call(ctx, control.MethodSignal, &control.SignalArgs{Which: s.which(), PID: pid, Signal: int32(signal), Target: target}, &control.None{})
}

// Wait blocks until the container has ended and returns its exit status, or
// 128 plus the signal that ended it.
func (s *Sandbox) Wait(ctx context.Context) (int, error) {
	if s.Further() {
		return s.waitFurther(ctx)
	}
	if err := s.Sandbox.wait(ctx); err != nil {
		return 0, err
	}
	if s.child != nil {
		s.child.process.Wait() // collect it; the record below says how it ended
	}
	return s.ExitStatus()
}

// ExitStatus returns how a stopped container ended. A sandbox process that was
// killed left no record: that is SIGKILL's status. One that migrated has no
// exit status here: that is an ErrMigrated.
func (s *Sandbox) ExitStatus() (int, error) {
	var record boot.ExitRecord
	err := readJSON(filepath.Join(s.dir, exitName), &record)
	if err == nil {
		return record.Status, nil
	}
	if err := s.migratedError(); err != nil {
		return 0, err
	}
	return 128 + int(unix.SIGKILL), nil
}

// Ended says whether the container ended by itself, and not with a sandbox process that was killed.
func (s *Sandbox) Ended() bool {
	return readJSON(filepath.Join(s.dir, exitName), new(boot.ExitRecord)) == nil
}

// Processes lists the container's processes.
func (s *Sandbox) Processes(ctx context.Context) ([]control.Process, error) {
	if err := s.need(ctx, "list processes of", specs.StateRunning, specs.StateCreated, StatePaused); err != nil {
		return nil, err
	}
	var list []control.Process
	which := s.which()
	if err := s.call(ctx, control.MethodProcesses, &which, &list); err != nil {
		return nil, fmt.Errorf("list processes of sandbox %q: %w", s.ID, err)
	}
	return list, nil
}

// Stats samples what the sandbox uses, or a further container.
func (s *Sandbox) Stats(ctx context.Context) (*control.Stats, error) {
	var stats control.Stats
	which := s.which()
	if err := s.call(ctx, control.MethodStats, &which, &stats); err != nil {
		return nil, fmt.Errorf("sample sandbox %q: %w", s.ID, err)
	}
	return &stats, nil
}

// Dial connects to the sandbox's control socket, for the methods of other
// packages. The caller closes the client.
func (s *Sandbox) Dial(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, s.processDir())
}

// call makes one call within callTimeout.
func (s *Sandbox) call(ctx context.Context, method string, arg, result any) error {
	return control.Call(ctx, s.processDir(), callTimeout, method, arg, result)
}

// Delete removes a stopped container; with force it ends it first. With the first
// one ends the sandbox.
func (s *Sandbox) Delete(ctx context.Context, force bool) error {
	if s.Further() {
		return s.deleteFurther(ctx, force)
	}
	if s.Sandbox.Alive() {
		// A container whose first process has ended is stopped a moment before
		// its sandbox process is gone.
		status := s.Status(ctx)
		if !force && status != specs.StateStopped {
			return fmt.Errorf("cannot delete sandbox %q: %w: it is %s, want stopped; kill it, or use --force", s.ID, ErrState, status)
		}
	}
	if err := s.end(ctx, force); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.removeCgroup()
	if s.migratedError() == nil {
		err = errors.Join(err, s.returnAddresses(), s.runHooks(ctx, hookPoststop))
	}
	if s.OwnsBundle {
		err = errors.Join(err, os.RemoveAll(s.Bundle))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// End ends the sandbox's processes, whatever its kernel does, and waits until
// they are gone. The state directory stays.
func (s *Sandbox) End(ctx context.Context) error { return s.end(ctx, true) }

// returnAddresses undoes the takeover of the network namespace, if that is
// still there.
func (s *Sandbox) returnAddresses() error {
	if s.NetworkUndo == nil {
		return nil
	}
	if _, err := os.Stat(s.NetworkNamespace); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.NetworkUndo.Restore(); err != nil {
		return fmt.Errorf("give the addresses of %q back: %w", s.NetworkNamespace, err)
	}
	return nil
}

// goferGrace is how long a gofer may take to notice that its sandbox is gone.
const goferGrace = 2 * time.Second

// end makes sure that no process of the sandbox is left.
func (s *Sandbox) end(ctx context.Context, force bool) error {
	if force {
		if err := s.Sandbox.kill(); err != nil {
			return err
		}
	}
	if _, err := s.Wait(ctx); err != nil && !errors.Is(err, ErrMigrated) {
		return fmt.Errorf("wait for the end of sandbox %q: %w", s.ID, err)
	}
	return s.endGofer(ctx)
}

// endGofer makes sure that a gofer that nobody uses any more has ended.
func (s *Sandbox) endGofer(ctx context.Context) error {
	graceful, cancel := context.WithTimeout(ctx, goferGrace)
	defer cancel()
	if s.Gofer.wait(graceful) != nil {
		return s.Gofer.kill()
	}
	return nil
}
