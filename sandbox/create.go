package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/gofer"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Sandbox is a sandbox on this host.
type Sandbox struct {
	Record
	dir string
	// child is set in the command that created the sandbox process, which has
	// to collect it when it ends.
	child *child
	// restored are the further containers that the command has restored with it.
	restored []restoredFurther
}

// CreateOptions says what sandbox to create.
type CreateOptions struct {
	ID     string
	Bundle *Bundle

	// Sandbox is the ID of a running sandbox in which to make a further container;
	// empty: the container has a sandbox of its own. Platform, Tracking and Restore
	// are the sandbox's then.
	Sandbox string
	// StandIn is the PID of a process that stands on this host for a further
	// container. It belongs to the caller.
	StandIn int

	// Stdio are the container's stdin, stdout and stderr, or the one slave end
	// of its terminal where the specification asks for one. Preserved become 3,
	// 4, … inside. Create takes ownership of all of them.
	Stdio     []*os.File
	Preserved []*os.File

	PIDFile  string             // where to write the sandbox process's PID; empty: nowhere
	Output   string             // where Stdio leads to, for the record; empty: not known
	Platform string             // default boot.DefaultPlatform
	Tracking string             // default boot.TrackingOn; the others are for measurements
	Overlay  mounts.OverlayMode // which writable mounts get a writable layer in memory; default none
	// OwnsBundle: the bundle's directory was made for this sandbox and goes with it.
	OwnsBundle bool
	Lenient    bool // leave out mounts of unknown type, with a warning, instead of refusing
	Debug      bool // log what the guest's kernel does

	// Restore creates the sandbox around a saved kernel.
	Restore *Restore
}

// Restore is what takes the place of a specification's own choices when the
// sandbox comes out of an image.
type Restore struct {
	From     string       // names the image, for the record
	Mounts   *mounts.List // the saved mounts, with their sources on this host
	Sessions []boot.Session
	Terminal *boot.TerminalState
	// Terminals are the slave ends of new terminals for exec'd processes, by session; Create takes
	// ownership. Where a session has none, its streams lead nowhere.
	Terminals map[string]*os.File
	// Processes is about how many processes the saved kernel has, to have room for them ready.
	Processes int
	// Network is what the saved kernel has on this host, no links for loopback
	// only. Its interfaces keep quiet until the sandbox starts and announces
	// itself.
	Network *network.Identity
	// Resets are connections that end with the restore, whose peers are told.
	Resets []network.Fate
	// Further are the containers besides the first, all that the saved kernel has.
	Further []FurtherRestore
	// Files are handed to boot.Hooks.Load; Create takes ownership.
	Files []*os.File
	// Faults is the device for a trap (see package faults) where memory may come after the
	// start; else nil. Create takes ownership.
	Faults *os.File
	// Memory becomes the sandbox's memory file; Create keeps its own copy.
	Memory *os.File
}

// Create makes a sandbox that is ready to be started and returns it with what
// its specification asked for in vain. On an error nothing is left behind.
func (r Root) Create(ctx context.Context, opts CreateOptions) (_ *Sandbox, warnings []string, err error) {
	owned := append(append([]*os.File{}, opts.Stdio...), opts.Preserved...)
	if opts.Restore != nil {
		owned = append(owned, opts.Restore.Files...)
		for _, f := range opts.Restore.Further {
			owned = append(owned, f.Stdio...)
		}
		owned = slices.AppendSeq(owned, maps.Values(opts.Restore.Terminals))
		if opts.Restore.Faults != nil {
			owned = append(owned, opts.Restore.Faults)
		}
	}
	c := &creation{opts: opts, files: &boot.Files{}}
	c.undoer(func() {
		for _, f := range owned {
			f.Close()
		}
	})
	defer func() {
		if err != nil {
			c.rollback()
		}
		for _, f := range c.last {
			f()
		}
	}()
	if opts.Sandbox != "" {
		if err := c.join(ctx, r); err != nil {
			return nil, nil, err
		}
	}
	if c.dir, err = r.reserve(opts.ID); err != nil {
		return nil, nil, err
	}
	c.undoer(func() { os.RemoveAll(c.dir) })
	s, err := c.run(ctx)
	if err != nil {
		return nil, nil, err
	}
	return s, c.warnings, nil
}

// creation is a sandbox being created: each step adds how to undo it.
type creation struct {
	opts     CreateOptions
	dir      string
	files    *boot.Files
	warnings []string
	undo     []func()
	last     []func() // in any case

	// in is the sandbox that gets a further container, nil for a sandbox of its own.
	// siblings are its further containers by now.
	in       *Sandbox
	siblings []*Sandbox

	record Record
	log    *os.File
	gofer  *gofer.Process
	// restored are the containers besides the first, where a sandbox is restored.
	restored []restoredFurther
}

func (c *creation) undoer(f func()) { c.undo = append(c.undo, f) }

// atEnd arranges for f to run when the creation is over, well or not.
func (c *creation) atEnd(f func()) { c.last = append(c.last, f) }

func (c *creation) rollback() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		c.undo[i]()
	}
}

func (c *creation) run(ctx context.Context) (*Sandbox, error) {
	bundle := c.opts.Bundle
	c.warnings = bundle.Warnings
	c.record = Record{
		ID: c.opts.ID, Bundle: bundle.Dir, Created: time.Now().UTC(), Annotations: bundle.Spec.Annotations,
		Terminal: bundle.Spec.Process.Terminal, Platform: c.opts.Platform, Output: c.opts.Output,
		OwnsBundle: c.opts.OwnsBundle,
	}
	if c.record.Platform == "" {
		c.record.Platform = boot.DefaultPlatform
	}
	if c.in != nil {
		if err := c.fillRecord(); err != nil {
			return nil, err
		}
	}
	if err := spare.CheckFileLimit(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	if err := writeFile(filepath.Join(c.dir, specName), bundle.Spec); err != nil {
		return nil, err
	}
	var err error
	c.log, err = os.OpenFile(filepath.Join(c.dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer c.log.Close()
	if c.in != nil {
		return c.runFurther(ctx)
	}
	for _, step := range []func(context.Context) error{c.compileMounts, c.startGofer, c.openNetwork, c.openFiles, c.openFurther} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c.startSandbox(ctx)
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
	cfg := gofer.Config{LogFile: c.log}
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
