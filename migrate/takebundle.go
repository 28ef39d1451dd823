package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
// host, ended before their time. It removes nothing while another process has swept here and runs, or where it cannot read
// whose a bundle is. Call it once, when this is the agent, and before that takes anything.
func (r *Receiver) SweepBundles() error {
	if r.MaxBundleBytes > 0 { // others must see that it is ours before there is anything in it
		if err := os.MkdirAll(r.BundleDir, 0o700); err != nil {
			return fmt.Errorf("directory for bundles: %w", err)
		}
	}
	dir, err := os.Open(r.BundleDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list bundles: %w", err)
	}
	// Kept until the process ends.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		return fmt.Errorf("bundles in %s are another agent's: %w", r.BundleDir, err)
	}
	r.bundleLock = dir
	entries, err := os.ReadDir(r.BundleDir)
	if err != nil {
		return fmt.Errorf("list bundles: %w", err)
	}
	owned, err := r.ownedBundles()
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(r.BundleDir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("look at bundle: %w", err)
		}
		if slices.ContainsFunc(owned, func(o fs.FileInfo) bool { return os.SameFile(o, info) }) {
			continue
		}
		r.Logger.Info("removing a bundle that nobody has", "bundle", path)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove bundle: %w", err)
		}
	}
	return nil
}

// ownedBundles returns the directories of the bundles that go with the sandboxes here, however they are spelt.
func (r *Receiver) ownedBundles() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(string(r.Root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var owned []fs.FileInfo
	for _, e := range entries {
		if !e.IsDir() || !sandbox.IsID(e.Name()) {
			continue // not a sandbox's
		}
		sb, err := r.Root.Open(e.Name())
		switch {
		case errors.Is(err, sandbox.ErrNotFound):
			continue // it is still being made, which is no agent's doing before there is one
		case err != nil:
			return nil, fmt.Errorf("bundles are kept: %w", err)
		case !sb.OwnsBundle:
			continue
		}
		info, err := os.Stat(sb.Bundle)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("bundles are kept: %w", err)
		}
		if err == nil {
			owned = append(owned, info)
		}
	}
	return owned, nil
}
