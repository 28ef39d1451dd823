package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/bundle"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// newBundlePrefix begins the name of a bundle that is not complete.
const newBundlePrefix = ".new-"

// takeBundle answers the offer of a bundle, takes the bundle, and returns the next
// message: the plan. It returns nil where the offer was refused with findings.
func (t *target) takeBundle(ctx context.Context, meeting *wire.Meeting, offer *wire.Bundle) (wire.Message, error) {
	if err := t.session.Admit(0); err != nil {
		return nil, refuse(t.session, codeLimit, err)
	}
	findings := t.receiver.checkOffer(t.id, offer)
	if err := t.session.Control.Send(&wire.Findings{Findings: findings, Connections: []wire.Fate{}}); err != nil || len(findings) > 0 {
		return nil, err
	}
	// The plan comes when the bundle has been sent, however long that takes. As long as it does, the data connection
	// tells whether the source is there.
	if err := t.session.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if err := t.awaitData(ctx, meeting); err != nil {
		return nil, err
	}
	if err := t.receiveBundle(ctx, offer); err != nil {
		return nil, refuse(t.session, codeBundle, err)
	}
	if err := t.session.Conn.SetDeadline(time.Now().Add(planTimeout)); err != nil {
		return nil, err
	}
	return t.next()
}

// checkOffer returns what speaks against a bundle that is offered.
func (r *Receiver) checkOffer(id string, offer *wire.Bundle) []wire.Finding {
	findings := []wire.Finding{}
	refuse := func(format string, args ...any) {
		findings = append(findings, bundleFinding("the bundle", fmt.Sprintf(format, args...)))
	}
	switch own := r.Bundles[id]; {
	case own != "":
		refuse("the target's agent has one for this sandbox, in %s: migrate without sending one", firstBytes(own, wire.MaxTextBytes/2))
	case r.MaxBundleBytes == 0 || r.BundleDir == "":
		refuse("the target's agent takes none: start it with --max-bundle, or give the target a bundle")
	case offer.Bytes > r.MaxBundleBytes:
		refuse("it has %d bytes, the target's agent takes %d: start it with a larger --max-bundle, or give the target a bundle", offer.Bytes, r.MaxBundleBytes)
	case offer.Entries > bundle.MaxEntries:
		refuse("it has %d files, limit is %d", offer.Entries, bundle.MaxEntries)
	}
	return findings
}

// receiveBundle unpacks the bundle from the first data connection into its place.
func (t *target) receiveBundle(ctx context.Context, offer *wire.Bundle) error {
	dir := t.receiver.BundleDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := t.id + "." + t.session.Attempt().String()
	temporary := filepath.Join(dir, newBundlePrefix+name)
	if err := os.Mkdir(temporary, 0o700); err != nil {
		return err
	}
	t.bundle = temporary
	received := make(chan struct{})
	defer close(received)
	go func() {
		select {
		case <-received:
			return
		case <-ctx.Done():
		case <-t.session.Stopping():
		}
		t.conns[0].Close()
	}()
	if err := bundle.Unpack(t.bundleReader(), temporary, bundle.Size{Entries: offer.Entries, Bytes: offer.Bytes}); err != nil {
		return err
	}
	b, err := sandbox.LoadBundle(temporary)
	if err != nil {
		return err
	}
	if b.Spec.Hooks != nil {
		return errors.New(hooksRefused)
	}
	if err := bundle.Sync(temporary); err != nil {
		return err
	}
	final := filepath.Join(dir, name)
	if err := os.Rename(temporary, final); err != nil {
		return err
	}
	t.bundle = final
	return bundle.Sync(dir)
}

// bundlePatience is how long the next piece of a bundle may take.
const bundlePatience = 30 * time.Second

// bundleReader reads the bundle from the first data connection.
func (t *target) bundleReader() *bundleReader {
	conn := t.conns[0]
	return &bundleReader{next: func() (wire.Frame, error) {
		if err := conn.SetReadDeadline(time.Now().Add(bundlePatience)); err != nil {
			return wire.Frame{}, err
		}
		f, err := t.readers[0].Next()
		if err != nil {
			return f, err
		}
		return f, conn.SetReadDeadline(time.Time{})
	}}
}

// dropBundle removes a bundle whose sandbox never ran here.
func (t *target) dropBundle() {
	if t.bundle == "" || t.arrival.wasStarted() {
		return
	}
	if err := os.RemoveAll(t.bundle); err != nil {
		t.log.Error("bundle was not removed", "bundle", t.bundle, "error", err)
	}
}

// SweepBundles removes the bundles whose sandboxes are gone: an earlier agent, or the
// host, ended before their time. Call it before the agent takes anything.
func (r *Receiver) SweepBundles() error {
	entries, err := os.ReadDir(r.BundleDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list bundles: %w", err)
	}
	all, err := r.Root.List()
	if err != nil {
		return err
	}
	owned := make(map[string]bool)
	for _, sb := range all {
		owned[sb.Bundle] = owned[sb.Bundle] || sb.OwnsBundle
	}
	for _, e := range entries {
		path := filepath.Join(r.BundleDir, e.Name())
		if owned[path] && !strings.HasPrefix(e.Name(), newBundlePrefix) {
			continue
		}
		r.Logger.Info("removing a bundle that nobody has", "bundle", path)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove bundle: %w", err)
		}
	}
	return nil
}
