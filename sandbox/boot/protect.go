package boot

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// maskPaths hides what the spec's maskedPaths name: a directory behind an
// empty read-only one, a file behind the null device. Paths that the kernel
// does not have need no mask.
func (m *mounter) maskPaths(ns *vfs.MountNamespace, paths []string) error {
	root := ns.Root(m.ctx)
	defer root.DecRef(m.ctx)
	for _, path := range paths {
		mode, err := m.modeOf(root, path)
		if absent(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("linux.maskedPaths: %q: %w", path, err)
		}
		if mode.IsDir() {
			err = m.mountEmpty(root, path)
		} else {
			err = m.bind(root, "/dev/null", path, false)
		}
		if err != nil {
			return fmt.Errorf("linux.maskedPaths: mask %q: %w", path, err)
		}
	}
	return nil
}

// protectPaths makes what the spec's readonlyPaths name read-only, by binding
// each onto itself.
func (m *mounter) protectPaths(ns *vfs.MountNamespace, paths []string) error {
	root := ns.Root(m.ctx)
	defer root.DecRef(m.ctx)
	for _, path := range paths {
		if _, err := m.modeOf(root, path); absent(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("linux.readonlyPaths: %q: %w", path, err)
		}
		if err := m.bind(root, path, path, true); err != nil {
			return fmt.Errorf("linux.readonlyPaths: protect %q: %w", path, err)
		}
	}
	return nil
}

func absent(err error) bool {
	return linuxerr.Equals(linuxerr.ENOENT, err) || linuxerr.Equals(linuxerr.ENOTDIR, err)
}

func (m *mounter) mountEmpty(root vfs.VirtualDentry, path string) error {
	opts := &vfs.MountOptions{ReadOnly: true, GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}}
	mnt, err := m.k.VFS().MountDisconnected(m.ctx, m.creds, "none", tmpfs.Name, opts)
	if err != nil {
		return err
	}
	defer mnt.DecRef(m.ctx)
	target := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(path), FollowFinalSymlink: true}
	return m.k.VFS().ConnectMountAt(m.ctx, m.creds, mnt, target)
}

// bind makes from appear at to.
func (m *mounter) bind(root vfs.VirtualDentry, from, to string, readOnly bool) error {
	v := m.k.VFS()
	source, err := v.GetDentryAt(m.ctx, m.creds,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(from), FollowFinalSymlink: true}, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer source.DecRef(m.ctx)
	opts := &vfs.MountOptions{ReadOnly: readOnly, Flags: source.Mount().Options().Flags}
	mnt := v.NewDisconnectedMount(source.Mount().Filesystem(), source.Dentry(), opts)
	defer mnt.DecRef(m.ctx)
	target := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(to), FollowFinalSymlink: true}
	return v.ConnectMountAt(m.ctx, m.creds, mnt, target)
}

// makeWorkingDirectory creates the process's working directory, as container
// runtimes do, where it is missing.
func (m *mounter) makeWorkingDirectory(ns *vfs.MountNamespace, dir string) error {
	root := ns.Root(m.ctx)
	defer root.DecRef(m.ctx)
	if err := m.k.VFS().MkdirAllAt(m.ctx, dir, root, m.creds, &vfs.MkdirOptions{Mode: 0o755}, true); err != nil {
		return fmt.Errorf("process.cwd: create %q: %w", dir, err)
	}
	return nil
}
