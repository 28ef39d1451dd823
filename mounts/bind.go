package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// BindOptions say how a bind mount is made. The zero value is writable and
// without what is mounted below the source.
type BindOptions struct {
	ReadOnly  bool // refuse writes; everything else of the source's mount stays as it is
	Recursive bool // with what is mounted below the source, read-only as well
}

// Binds makes bind mounts on the host and remembers how to undo them. The zero
// value is ready. It has one owner.
type Binds struct {
	undo []func() error // in the order of doing
}

// Bind binds source on destination, private to this mount namespace. Symlinks in
// the source are followed; it must not be of the host's kernel (see
// CheckSource), and others must not change it meanwhile. A destination that does not exist is created as a directory or
// file to match. The caller has resolved destination (see ResolveInRoot). A step
// that fails undoes those before it.
func (b *Binds) Bind(source, destination string, opts BindOptions) error {
	before := len(b.undo)
	if err := b.bind(source, destination, opts); err != nil {
		return errors.Join(fmt.Errorf("bind %q on %q: %w", source, destination, err), b.undoFrom(before))
	}
	return nil
}

func (b *Binds) bind(source, destination string, opts BindOptions) error {
	isFile, err := CheckSource(source)
	if err != nil {
		return err
	}
	if err := b.createDestination(destination, isFile); err != nil {
		return fmt.Errorf("create destination: %w", err)
	}
	flags, recursive := uintptr(unix.MS_BIND), uint(0)
	if opts.Recursive {
		flags, recursive = flags|unix.MS_REC, unix.AT_RECURSIVE
	}
	if err := unix.Mount(source, destination, "", flags, ""); err != nil {
		return err
	}
	b.undo = append(b.undo, func() error { return Unmount(destination) })
	// This changes what it names and keeps the rest, which a remount would reset:
	// nosuid, nodev and noexec of the source's mount stay.
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if opts.ReadOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, destination, recursive, &attr); err != nil {
		return fmt.Errorf("make private, read-only %v: %w", opts.ReadOnly, err)
	}
	return nil
}

// createDestination makes sure that there is something to mount on.
func (b *Binds) createDestination(destination string, isFile bool) error {
	info, err := os.Lstat(destination)
	switch {
	case err == nil && info.IsDir() == isFile:
		return fmt.Errorf("a directory can only be bound on a directory, a file on a file")
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	case !isFile:
		return b.createDirs(destination)
	}
	if err := b.createDirs(filepath.Dir(destination)); err != nil {
		return err
	}
	f, err := os.OpenFile(destination, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() error { return os.Remove(destination) })
	return f.Close()
}

// createDirs creates a directory and those above it that are missing.
func (b *Binds) createDirs(dir string) error {
	var missing []string
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		missing = append(missing, dir)
	}
	for _, name := range slices.Backward(missing) {
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
		b.undo = append(b.undo, func() error { return os.Remove(name) })
	}
	return nil
}

// Undo unmounts everything and removes what was created, the last first. It goes
// on after an error and returns all of them.
func (b *Binds) Undo() error { return b.undoFrom(0) }

func (b *Binds) undoFrom(first int) error {
	var errs []error
	for _, step := range slices.Backward(b.undo[first:]) {
		if err := step(); err != nil {
			errs = append(errs, err)
		}
	}
	b.undo = b.undo[:first]
	return errors.Join(errs...)
}

// Unmount detaches what is mounted on a path, with everything below; what is
// still in use goes when it is closed. Others may have mounted there, so waiting
// for it to be idle could take for ever.
func Unmount(destination string) error {
	if err := unix.Unmount(destination, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %q: %w", destination, err)
	}
	return nil
}
