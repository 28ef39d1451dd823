package sandbox

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
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
	// startCPU is where the sandbox and its gofer share a CPU while the container starts, nil where they do not.
	startCPU *int
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
	c.chooseStartCPU()
	for _, step := range []func(context.Context) error{c.compileMounts, c.startGofer, c.openNetwork, c.openFiles, c.openFurther} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c.startSandbox(ctx)
}
