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
	sb, err := o.root.Open(o.id)
	if err != nil {
		return err
	}
	if err := checkpoint.Disarm(ctx, sb); err != nil {
		return err
	}
	failpoint.Here(failpoint.SourceDisarmed)
	return nil
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
	return sb.End(context.WithoutCancel(ctx))
}
