package migrate

import (
	"context"
	"errors"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// original is the sandbox on the source, for package handover.
type original struct {
	root sandbox.Root
	id   string
	to   string // for the sandbox's record
	// notAfter, if not zero, is when the sandbox existed already: one of the same
	// name that was made later is another one.
	notAfter time.Time
	// disarm, if not nil, is the shortest way to disarm the sandbox.
	disarm func(context.Context) error
}

// find returns the sandbox, or nil if it is gone.
func (o original) find() (*sandbox.Sandbox, error) {
	sb, err := o.root.Open(o.id)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil, nil
	}
	if err == nil && !o.notAfter.IsZero() && sb.Created.After(o.notAfter) {
		return nil, nil
	}
	return sb, err
}

// Disarm implements handover.Original.
func (o original) Disarm(ctx context.Context) error {
	if err := o.disarmed(ctx); err != nil {
		return err
	}
	failpoint.Here(failpoint.SourceDisarmed)
	return nil
}

func (o original) disarmed(ctx context.Context) error {
	if o.disarm != nil {
		return o.disarm(ctx)
	}
	sb, err := o.root.Open(o.id)
	if err != nil {
		return err
	}
	return checkpoint.Disarm(ctx, sb)
}

// Resume implements handover.Original.
func (o original) Resume(ctx context.Context) error {
	sb, err := o.find()
	if err != nil || sb == nil || !sb.Sandbox.Alive() {
		return err
	}
	return checkpoint.Release(context.WithoutCancel(ctx), sb, true)
}

// Destroy implements handover.Original.
func (o original) Destroy(ctx context.Context) error {
	failpoint.Here(failpoint.SourceDeparted)
	sb, err := o.find()
	if err != nil || sb == nil {
		return err
	}
	all, err := sb.Containers()
	if err != nil {
		return err
	}
	for _, c := range append(all, sb) {
		if err := c.MarkMigrated(o.to); err != nil {
			return err
		}
	}
	sb.Yield() // it has begun on the target, which may be on the same machine, and others live here
	return sb.End(context.WithoutCancel(ctx))
}
