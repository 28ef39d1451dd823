package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// A sandbox has the container that it was made for, and may have further ones.
// Each has a state directory of its own, under its own ID, with its own gofer; the
// record of a further one names its sandbox. The sandbox process is that of all.

// Further says whether this is a further container of a sandbox, and not its first.
func (s *Sandbox) Further() bool { return s.SandboxID != "" }

// which names the container to the sandbox process.
func (s *Sandbox) which() control.Which { return control.Which{Container: s.Name} }

// processDir is the state directory that has the sandbox process's control socket.
func (s *Sandbox) processDir() string {
	if s.Further() {
		return filepath.Join(filepath.Dir(s.dir), s.SandboxID)
	}
	return s.dir
}

// hostPID is the PID of the process that stands for the container on this host.
func (s *Sandbox) hostPID() int {
	if s.Further() {
		return s.StandIn.PID
	}
	return s.Sandbox.PID
}

// NeedWhole refuses an operation on a whole sandbox that was asked for of one of its
// further containers.
func (s *Sandbox) NeedWhole(verb string) error {
	if !s.Further() {
		return nil
	}
	return fmt.Errorf("cannot %s %q alone: %w: it is a container of sandbox %q: %s that, with all of its containers",
		verb, s.ID, ErrState, s.SandboxID, verb)
}

// Containers returns the further containers that were made in the sandbox, by ID,
// those that have ended included.
func (s *Sandbox) Containers() ([]*Sandbox, error) {
	all, err := Root(filepath.Dir(s.dir)).List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(o *Sandbox) bool { return o.SandboxID != s.ID || o.Sandbox != s.Sandbox }), nil
}

// DeleteWhole removes a sandbox with all of its containers, whatever they are doing. The cgroup of a further one may be below that of
// the first, or of another, and one that has others below it cannot be removed.
func (s *Sandbox) DeleteWhole(ctx context.Context) error {
	all, err := s.Containers()
	err = errors.Join(err, s.End(ctx))
	slices.SortStableFunc(all, func(a, b *Sandbox) int { return len(b.CgroupPath) - len(a.CgroupPath) })
	for _, further := range all {
		err = errors.Join(err, further.Delete(ctx, true))
	}
	return errors.Join(err, s.Delete(ctx, true))
}

// maxContainerName is that of an ID.
const maxContainerName = 128

// pickName returns the kernel's name for a further container: what its container
// manager calls it, or else its ID, and different from those that are taken.
func pickName(spec *specs.Spec, id string, taken []*Sandbox) string {
	name := nameOf(spec)
	if !IsID(name) {
		name = id
	}
	isTaken := func(name string) bool {
		return name == boot.RootContainer || slices.ContainsFunc(taken, func(s *Sandbox) bool { return s.Name == name })
	}
	unique := name
	for n := 2; isTaken(unique); n++ {
		suffix := fmt.Sprintf(".%d", n)
		unique = name[:min(len(name), maxContainerName-len(suffix))] + suffix
	}
	return unique
}

// join begins a container in a sandbox that runs.
func (c *creation) join(ctx context.Context, root Root) error {
	in, err := root.Open(c.opts.Sandbox)
	if err != nil {
		return fmt.Errorf("sandbox of container %q: %w", c.opts.ID, err)
	}
	if err := in.NeedWhole("add a container to"); err != nil {
		return err
	}
	if !samePod(c.opts.Bundle.Spec.Annotations, in.Annotations) {
		return fmt.Errorf("%w: its annotations name another pod than those of sandbox %q, which it is to be made in", ErrBundle, in.ID)
	}
	if c.opts.StandIn <= 0 {
		return errors.New("a further container needs a process that stands for it on the host")
	}
	// Names are picked, and shared mounts compared, one after the other.
	unlock, err := in.lock(ctx)
	if err != nil {
		return err
	}
	c.atEnd(unlock)
	if err := in.need(ctx, "add a container to", specs.StateRunning); err != nil {
		return err
	}
	if c.siblings, err = in.Containers(); err != nil {
		return err
	}
	c.in = in
	return nil
}

// fillRecord says what of the record is a further container's.
func (c *creation) fillRecord() (err error) {
	c.record.SandboxID, c.record.Platform = c.in.ID, c.in.Platform
	c.record.Name = pickName(c.opts.Bundle.Spec, c.opts.ID, c.siblings)
	c.record.Sandbox, c.record.Network = c.in.Sandbox, c.in.Network
	if c.record.StandIn, err = identify(c.opts.StandIn); err != nil {
		return fmt.Errorf("process that stands for container %q: %w", c.opts.ID, err)
	}
	return nil
}

// createTimeout is long, since the kernel asks the container's gofer for files.
const createTimeout = 30 * time.Second

// createFurther hands the container to the sandbox process.
func (c *creation) createFurther(ctx context.Context) (*Sandbox, error) {
	s := &Sandbox{Record: c.record, dir: c.dir}
	s.Creating = true
	if err := s.save(); err != nil {
		return nil, err
	}
	if err := s.runHooks(ctx, hookCreateRuntime); err != nil {
		return nil, err
	}
	exit, err := openExit(c.dir)
	if err != nil {
		return nil, err
	}
	defer exit.Close()
	c.files.Stdio, c.files.Preserved = c.opts.Stdio, c.opts.Preserved
	defer closeFiles(c.files) // the call gives copies
	pids, err := c.pidNamespaceOf(ctx)
	if err != nil {
		return nil, err
	}
	args := &control.CreateArgs{
		FilePayload: urpc.FilePayload{Files: slices.Concat([]*os.File{exit}, c.opts.Stdio, c.opts.Preserved, c.files.Gofer)},
		Name:        s.Name, Spec: c.opts.Bundle.Spec, Mounts: s.Mounts, PIDNamespaceOf: pids,
		Streams: len(c.opts.Stdio), Preserved: len(c.opts.Preserved),
	}
	if n := len(args.Files); n > control.MaxCreateFiles {
		return nil, fmt.Errorf("%w: a further container has %d served mounts, streams and descriptors, limit is %d: leave some out", ErrBundle, n, control.MaxCreateFiles)
	}
	// Also where it is not known whether the container was made.
	c.undoer(func() { s.destroy(context.WithoutCancel(ctx)) })
	if err := control.Call(ctx, c.in.dir, createTimeout, control.MethodCreate, args, &control.None{}); err != nil {
		// The gofer's own reason, if it has one, is the cause.
		if goferErr := c.gofer.Ready(ctx); goferErr != nil {
			return nil, fmt.Errorf("start gofer: %w", goferErr)
		}
		return nil, fmt.Errorf("create container %q in sandbox %q: %w", s.ID, s.SandboxID, err)
	}
	s.Creating = false
	if err := s.save(); err != nil {
		return nil, err
	}
	if c.opts.PIDFile != "" {
		return s, writePIDFile(c.opts.PIDFile, s.hostPID())
	}
	return s, nil
}

func openExit(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, exitName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// destroy makes the sandbox process end the container and forget it. One whose
// sandbox has ended is gone.
func (s *Sandbox) destroy(ctx context.Context) error {
	which := s.which()
	err := s.call(ctx, control.MethodDestroy, &which, &control.None{})
	if errors.Is(err, control.ErrUnreachable) && !s.Sandbox.Alive() {
		return nil
	}
	return err
}

// waitFurther blocks until a further container has ended and returns its exit
// status.
func (s *Sandbox) waitFurther(ctx context.Context) (int, error) {
	var result control.WaitResult
	err := control.Call(ctx, s.processDir(), 0, control.MethodWait, &control.WaitArgs{Which: s.which()}, &result)
	if errors.Is(err, control.ErrUnreachable) && s.Sandbox.wait(ctx) == nil {
		return s.ExitStatus()
	}
	if err != nil && s.Status(ctx) == specs.StateStopped {
		return s.ExitStatus() // it was deleted, which nobody need wait for
	}
	if err != nil {
		return 0, fmt.Errorf("wait for container %q: %w", s.ID, err)
	}
	return result.Status, nil
}

// signalFurther sends a signal to a further container. KILL goes to all of its
// processes, which may share a PID namespace with others.
func (s *Sandbox) signalFurther(ctx context.Context, signal unix.Signal, all bool) error {
	target := control.TargetProcess
	if all || signal == unix.SIGKILL {
		target = control.TargetAll
	}
	args := &control.SignalArgs{Which: s.which(), Signal: int32(signal), Target: target}
	if err := s.call(ctx, control.MethodSignal, args, &control.None{}); err != nil {
		return fmt.Errorf("signal container %q of sandbox %q: %w", s.ID, s.SandboxID, err)
	}
	return nil
}

// deleteFurther removes a stopped further container, and with force ends it first.
func (s *Sandbox) deleteFurther(ctx context.Context, force bool) error {
	if status := s.Status(ctx); !force && status != specs.StateStopped {
		return fmt.Errorf("cannot delete container %q: %w: it is %s, want stopped; kill it, or use --force", s.ID, ErrState, status)
	}
	if s.Sandbox.Alive() {
		if err := s.destroy(ctx); err != nil {
			return fmt.Errorf("end container %q of sandbox %q: %w", s.ID, s.SandboxID, err)
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	err = errors.Join(s.endGofer(ctx), s.removeCgroup())
	if s.migratedError() == nil {
		err = errors.Join(err, s.runHooks(ctx, hookPoststop))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
