package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/gofer"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// chooseStartCPU takes the CPU on which this command runs, which the host has chosen for being free. A kernel that is loaded has memory to
// be placed while it starts, on all CPUs.
func (c *creation) chooseStartCPU() {
	if c.opts.Restore != nil {
		return
	}
	if cpu, err := spare.CurrentCPU(); err == nil {
		c.startCPU = &cpu
	}
}

func (c *creation) compileMounts(context.Context) error {
	if restore := c.opts.Restore; restore != nil {
		c.record.Mounts = restore.Mounts
		c.record.RestoredFrom = restore.From
		return nil
	}
	list, err := mounts.Compile(c.compiledSpec(), mounts.Options{
		Bundle: c.opts.Bundle.Dir, Overlay: c.opts.Overlay, Lenient: c.opts.Lenient,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	for _, w := range list.Warnings {
		c.warnings = append(c.warnings, w.String())
	}
	c.record.Mounts = list
	return nil
}

func (c *creation) startGofer(ctx context.Context) error {
	g, err := c.startGoferOf(ctx, &c.record, c.opts.Bundle.Spec.Linux)
	if err != nil {
		return err
	}
	c.gofer, c.files.Gofer = g, g.Client
	return nil
}

// startGoferOf starts the gofer of a container, and notes it in its record.
func (c *creation) startGoferOf(ctx context.Context, record *Record, linux *specs.Linux) (*gofer.Process, error) {
	cfg := gofer.Config{LogFile: c.log, StartCPU: c.startCPU}
	for _, m := range record.Mounts.GoferMounts() {
		cfg.Mounts = append(cfg.Mounts, gofer.Mount{
			Source: m.Source, ReadOnly: m.ServedReadOnly(), Recursive: m.Recursive,
		})
	}
	if linux != nil {
		cfg.UIDMappings, cfg.GIDMappings = linux.UIDMappings, linux.GIDMappings
	}
	g, err := gofer.Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	c.undoer(func() {
		g.Kill()
		g.Wait()
	})
	record.Gofer, err = identify(g.PID)
	return g, err
}

// openNetwork takes over the network namespace that the specification names.
func (c *creation) openNetwork(context.Context) error {
	path := NetworkNamespace(c.opts.Bundle.Spec)
	c.record.Network = &network.Identity{}
	if path == "" {
		return nil
	}
	opts := network.Options{}
	if restore := c.opts.Restore; restore != nil {
		opts.Silent = true
		c.record.Network = restore.Network
	} else {
		identity, err := network.Probe(path)
		if err != nil {
			return fmt.Errorf("read network namespace %q: %w", path, err)
		}
		c.record.Network = identity
	}
	if len(c.record.Network.Links) == 0 {
		return nil
	}
	taken, err := network.Open(path, c.record.Network, opts)
	if err != nil {
		return fmt.Errorf("take over network namespace %q: %w", path, err)
	}
	c.undoer(func() { taken.Undo.Restore() })
	c.record.NetworkNamespace, c.record.NetworkUndo = path, taken.Undo
	c.files.Packet = taken.Files
	return nil
}

// openFiles opens what else the sandbox process is handed.
func (c *creation) openFiles(context.Context) error {
	var err error
	c.files.Stdio, c.files.Preserved = c.opts.Stdio, c.opts.Preserved
	if c.files.Control, err = control.Listen(c.dir); err != nil {
		return err
	}
	if c.files.Exit, err = openExit(c.dir); err != nil {
		return err
	}
	restore := c.opts.Restore
	if restore == nil {
		c.files.Memory, err = newMemory()
		return err
	}
	c.files.Load = restore.Files
	for _, name := range slices.Sorted(maps.Keys(restore.Terminals)) {
		c.files.Terminals = append(c.files.Terminals, restore.Terminals[name])
	}
	if restore.Faults != nil {
		c.files.Faults = []*os.File{restore.Faults}
	}
	fd, err := unix.FcntlInt(restore.Memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("share sandbox memory: %w", err)
	}
	c.files.Memory = os.NewFile(uintptr(fd), "sandbox-memory")
	return nil
}

func (c *creation) startSandbox(ctx context.Context) (*Sandbox, error) {
	spec := c.opts.Bundle.Spec
	cfg := &boot.Config{
		ID: c.opts.ID, Spec: spec, Mounts: c.record.Mounts, Network: c.record.Network,
		Platform: c.record.Platform, Tracking: c.opts.Tracking, TotalMemory: memoryLimit(spec), Debug: c.opts.Debug,
		StartCPU: c.startCPU,
	}
	if restore := c.opts.Restore; restore != nil {
		cfg.Restore = &boot.RestoreConfig{
			Sessions: restore.Sessions, Terminals: slices.Sorted(maps.Keys(restore.Terminals)),
			Terminal: restore.Terminal, Processes: restore.Processes, Resets: restore.Resets,
			Further: c.furtherConfig(),
		}
	}
	process, err := c.startInCgroup(cfg)
	if err != nil {
		closeFiles(c.files)
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	child, err := handOver(process, cfg, c.files, c.log)
	if err != nil {
		return nil, c.explain(err)
	}
	c.undoer(func() {
		child.process.Kill()
		child.process.Wait()
	})
	if c.record.Sandbox, err = identify(child.process.PID()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	c.adjustOOMScore()
	s := &Sandbox{Record: c.record, dir: c.dir, child: child, restored: c.restored}
	// From here on there is a process to be ended, whatever becomes of us.
	s.Creating = true
	if err := s.save(); err != nil {
		return nil, err
	}
	if err := errors.Join(s.runHooks(ctx, hookCreateRuntime), c.saveFurther(ctx)); err != nil {
		return nil, err
	}
	report, err := child.waitReady(ctx)
	if err != nil {
		// The gofer's own reason, if it has one, is the cause.
		if goferErr := c.gofer.Ready(ctx); goferErr != nil {
			return nil, fmt.Errorf("start gofer: %w", goferErr)
		}
		if goferErr := c.furtherGofersReady(ctx); goferErr != nil {
			return nil, goferErr
		}
		return nil, c.explain(err)
	}
	c.warnings = append(c.warnings, report.Warnings...)
	s.Creating = false
	if err := errors.Join(s.save(), c.finishFurther()); err != nil {
		return nil, err
	}
	if c.opts.PIDFile != "" {
		if err := writePIDFile(c.opts.PIDFile, s.Sandbox.PID); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// explain adds the end of the log to an error, since the log goes away with
// the state directory.
func (c *creation) explain(err error) error {
	const maxTailBytes = 2 << 10
	f, openErr := os.Open(c.log.Name())
	if openErr != nil {
		return err
	}
	defer f.Close()
	info, statErr := f.Stat()
	if statErr != nil || info.Size() == 0 {
		return err
	}
	tail := make([]byte, min(info.Size(), maxTailBytes))
	n, _ := f.ReadAt(tail, info.Size()-int64(len(tail)))
	return fmt.Errorf("%w; its log ends:\n%q", err, tail[:n])
}

// adjustOOMScore tells the host how readily to end the sandbox process when
// memory runs out. It is best effort: an unprivileged caller may only raise it.
func (c *creation) adjustOOMScore() {
	score := c.opts.Bundle.Spec.Process.OOMScoreAdj
	if score == nil {
		return
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", c.record.Sandbox.PID)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%d", *score), 0); err != nil {
		c.warnings = append(c.warnings, fmt.Sprintf("process.oomScoreAdj is not applied: %v", err))
	}
}

// NewMemory returns a memfd to restore a sandbox's memory into.
func NewMemory() (*os.File, error) { return newMemory() }

func writePIDFile(path string, pid int) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "%d", pid), 0o644); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return os.Rename(tmp, path)
}
