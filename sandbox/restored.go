package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/gofer"
)

// FurtherRestore is a container besides the first of a sandbox that is restored.
type FurtherRestore struct {
	ID     string
	Name   string // the saved kernel's
	Bundle *Bundle
	Mounts *mounts.List // the saved mounts, with their sources on this host
	// Terminal is the saved state of its terminal, nil if it has none.
	Terminal *boot.TerminalState
	// PID is its first process in the saved kernel.
	PID int32
	// Stdio are its standard streams, or the slave end of its terminal. Create takes
	// ownership.
	Stdio   []*os.File
	StandIn int    // PID of the process that stands for it on this host
	PIDFile string // where to write that PID; empty: nowhere
	Output  string // where Stdio leads to, for the record; empty: not known
}

// restoredFurther is such a container being made.
type restoredFurther struct {
	*FurtherRestore
	container *Sandbox
	gofer     *gofer.Process
}

// openFurther makes the state directory and the gofer of each further container of
// a sandbox that is restored.
func (c *creation) openFurther(ctx context.Context) error {
	if c.opts.Restore == nil {
		return nil
	}
	for i := range c.opts.Restore.Further {
		f := &c.opts.Restore.Further[i]
		if err := c.openRestored(ctx, f); err != nil {
			return fmt.Errorf("container %q: %w", f.Name, err)
		}
	}
	return nil
}

func (c *creation) openRestored(ctx context.Context, f *FurtherRestore) error {
	root := Root(filepath.Dir(c.dir))
	dir, err := root.reserve(f.ID)
	if err != nil {
		return err
	}
	c.undoer(func() { os.RemoveAll(dir) })
	spec := f.Bundle.Spec
	s := &Sandbox{dir: dir, Record: Record{
		ID: f.ID, SandboxID: c.record.ID, Name: f.Name, Bundle: f.Bundle.Dir, Created: c.record.Created, Annotations: spec.Annotations,
		Terminal: spec.Process.Terminal, Platform: c.record.Platform, Output: f.Output,
		Mounts: f.Mounts, Network: c.record.Network, RestoredFrom: c.opts.Restore.From, Creating: true,
	}}
	if s.StandIn, err = identify(f.StandIn); err != nil {
		return fmt.Errorf("process that stands for it: %w", err)
	}
	if s.Maker, err = identify(os.Getpid()); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, specName), spec); err != nil {
		return err
	}
	g, err := c.startGoferOf(ctx, &s.Record, spec.Linux)
	if err != nil {
		return err
	}
	exit, err := openExit(dir)
	if err != nil {
		return err
	}
	c.files.Further = append(append(append(c.files.Further, exit), f.Stdio...), g.Client...)
	c.restored = append(c.restored, restoredFurther{f, s, g})
	c.warnFurther(f)
	return s.save() // whoever ends us now leaves something that can be deleted
}

// warnFurther notes what such a container's specification asks for in vain.
func (c *creation) warnFurther(f *FurtherRestore) {
	for _, w := range furtherWarnings(f.Bundle, c.opts.Bundle.Spec, &Sandbox{Record: c.record}) {
		c.warnings = append(c.warnings, fmt.Sprintf("container %q: %s", f.Name, w))
	}
}

// furtherConfig tells the sandbox process of them.
func (c *creation) furtherConfig() []boot.FurtherContainer {
	var all []boot.FurtherContainer
	for _, f := range c.restored {
		all = append(all, boot.FurtherContainer{Name: f.Name, PID: f.PID, Mounts: f.Mounts, HasTerminal: f.container.Terminal, Terminal: f.FurtherRestore.Terminal})
	}
	return all
}

// GofersAlive says whether the gofers of all containers that were made with the
// sandbox by this process still serve.
func (s *Sandbox) GofersAlive() bool {
	alive := s.Gofer.Alive()
	for _, f := range s.restored {
		alive = alive && f.container.Gofer.Alive()
	}
	return alive
}

// saveFurther makes their cgroups, after that of the first, which may be above them; publishes their records, as of containers
// that are being made; and runs their hooks.
func (c *creation) saveFurther(ctx context.Context) error {
	for _, f := range c.restored {
		f.container.Sandbox = c.record.Sandbox
		c.makeFurtherCgroup(&f.container.Record, f.gofer, f.Bundle.Spec.Linux)
		if err := errors.Join(f.container.save(), f.container.runHooks(ctx, hookCreateRuntime)); err != nil {
			return err
		}
	}
	return nil
}

// furtherGofersReady returns the reason of a gofer that could not serve.
func (c *creation) furtherGofersReady(ctx context.Context) error {
	for _, f := range c.restored {
		if err := f.gofer.Ready(ctx); err != nil {
			return fmt.Errorf("start gofer of container %q: %w", f.Name, err)
		}
	}
	return nil
}

// finishFurther publishes them as made.
func (c *creation) finishFurther() error {
	for _, f := range c.restored {
		f.container.Creating = false
		if err := f.container.save(); err != nil {
			return err
		}
		if f.PIDFile == "" {
			continue
		}
		if err := writePIDFile(f.PIDFile, f.container.hostPID()); err != nil {
			return err
		}
	}
	return nil
}
