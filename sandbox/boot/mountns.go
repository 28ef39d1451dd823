package boot

import (
	"fmt"
	"path"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroupfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/dev"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/sys"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// mounter builds one container's mount namespace from its compiled mounts.
type mounter struct {
	k         *kernel.Kernel
	container string
	ctx       context.Context
	creds     *auth.Credentials
	// goferFDs are the sockets to the gofer, in order of the gofer-served
	// mounts; each is consumed once.
	goferFDs []int
}

// mountAll mounts list and returns the namespace, which the caller owns. Read-
// only takes effect after everything below it is mounted.
func (m *mounter) mountAll(list *mounts.List) (*vfs.MountNamespace, error) {
	if len(list.Mounts) == 0 || list.Mounts[0].Destination != "/" {
		return nil, fmt.Errorf("compiled mounts do not begin with the root")
	}
	ns, err := m.mountRoot(&list.Mounts[0])
	if err != nil {
		return nil, err
	}
	root := ns.Root(m.ctx)
	defer root.DecRef(m.ctx)

	var readOnly []*vfs.Mount
	defer func() {
		for _, mnt := range readOnly {
			mnt.DecRef(m.ctx)
		}
	}()
	keepWritable := func(mnt *vfs.Mount) error {
		if !mnt.ReadOnly() {
			return nil
		}
		mnt.IncRef()
		readOnly = append(readOnly, mnt)
		return m.k.VFS().SetMountReadOnly(mnt, false)
	}
	if err := keepWritable(root.Mount()); err != nil {
		return nil, fmt.Errorf("make root writable for its mount points: %w", err)
	}
	for i := range list.Mounts[1:] {
		mount := &list.Mounts[i+1]
		if err := m.mountBelow(root, mount, keepWritable); err != nil {
			return nil, fmt.Errorf("mount %q (%s): %w", mount.Destination, mount.Filesystem, err)
		}
	}
	for _, mnt := range readOnly {
		if err := m.k.VFS().SetMountReadOnly(mnt, true); err != nil {
			return nil, fmt.Errorf("make mount read-only: %w", err)
		}
	}
	return ns, nil
}

// mountRoot makes a namespace whose root is the container's root mount. The
// namespace's own root cannot be replaced, so an empty one lies below it.
func (m *mounter) mountRoot(mount *mounts.Mount) (*vfs.MountNamespace, error) {
	mnt, err := m.mountDisconnected(mount)
	if err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	defer mnt.DecRef(m.ctx)
	v := m.k.VFS()
	ns, err := v.NewMountNamespace(m.ctx, m.creds, "rootfs", tmpfs.Name, &vfs.MountOptions{ReadOnly: true, Locked: true}, m.k)
	if err != nil {
		return nil, fmt.Errorf("create mount namespace: %w", err)
	}
	below := ns.Root(m.ctx)
	defer below.DecRef(m.ctx)
	if err := v.ConnectMountAt(m.ctx, m.creds, mnt, &vfs.PathOperation{Root: below, Start: below}); err != nil {
		ns.DecRef(m.ctx)
		return nil, fmt.Errorf("attach root: %w", err)
	}
	return ns, nil
}

// mountBelow mounts one mount at its destination under root, creating the
// mount point where it is missing.
func (m *mounter) mountBelow(root vfs.VirtualDentry, mount *mounts.Mount, keepWritable func(*vfs.Mount) error) error {
	mnt, err := m.mountDisconnected(mount)
	if err != nil {
		return err
	}
	defer mnt.DecRef(m.ctx)
	// The empty path: "/" demands a directory, and a mount's root may be a file.
	mode, err := m.modeOf(vfs.MakeVirtualDentry(mnt, mnt.Root()), "")
	if err != nil {
		return err
	}
	if err := m.makeMountPoint(root, mount.Destination, mode.IsDir()); err != nil {
		return err
	}
	// mount(2) follows a final symlink; it resolves inside the root.
	target := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(mount.Destination), FollowFinalSymlink: true}
	if err := m.k.VFS().ConnectMountAt(m.ctx, m.creds, mnt, target); err != nil {
		return err
	}
	return keepWritable(mnt)
}

// mountDisconnected makes the mount, with its overlay if it has one, attached
// nowhere yet.
func (m *mounter) mountDisconnected(mount *mounts.Mount) (*vfs.Mount, error) {
	name, opts, err := m.options(mount)
	if err != nil {
		return nil, err
	}
	if mount.SharedInPod() {
		return m.bindShared(mount, name, opts)
	}
	if mount.Overlay {
		return m.mountOverlay(name, opts)
	}
	return m.k.VFS().MountDisconnected(m.ctx, m.creds, mount.Device, name, opts)
}

// options says which filesystem of the kernel a compiled mount is, and with
// what options.
func (m *mounter) options(mount *mounts.Mount) (string, *vfs.MountOptions, error) {
	opts := &vfs.MountOptions{
		Flags: vfs.MountFlags{
			NoExec:  mount.Flags.NoExec,
			NoATime: mount.Flags.NoATime,
			NoDev:   mount.Flags.NoDev,
			NoSUID:  mount.Flags.NoSUID,
		},
		ReadOnly:             mount.Flags.ReadOnly,
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true, Data: mount.Data},
	}
	switch mount.Filesystem {
	case mounts.FilesystemGofer:
		if err := m.goferOptions(mount, opts); err != nil {
			return "", nil, err
		}
		return gofer.Name, opts, nil
	case mounts.FilesystemProc:
		opts.GetFilesystemOptions.InternalData = &proc.InternalData{}
		return proc.Name, opts, nil
	case mounts.FilesystemSysfs:
		opts.GetFilesystemOptions.InternalData = &sys.InternalData{}
		return sys.Name, opts, nil
	case mounts.FilesystemDevtmpfs:
		return dev.Name, opts, nil
	case mounts.FilesystemDevpts:
		return devpts.Name, opts, nil
	case mounts.FilesystemTmpfs:
		return tmpfs.Name, opts, nil
	case mounts.FilesystemMqueue:
		return mqfs.Name, opts, nil
	case mounts.FilesystemCgroup:
		return cgroupfs.Name, opts, nil
	default:
		return "", nil, fmt.Errorf("filesystem %q is not one the kernel has", mount.Filesystem)
	}
}

// goferOptions points opts at the next gofer socket and gives the mount the
// identity under which a restore finds it again.
func (m *mounter) goferOptions(mount *mounts.Mount, opts *vfs.MountOptions) error {
	if len(m.goferFDs) == 0 {
		return fmt.Errorf("no gofer socket left for device %q", mount.Device)
	}
	fd := m.goferFDs[0]
	m.goferFDs = m.goferFDs[1:]
	data := []string{"trans=fd", fmt.Sprintf("rfdno=%d,wfdno=%d", fd, fd), "disable_fifo_open"}
	if mount.Destination == "/" {
		// The host's root may be an overlayfs, whose file descriptors go stale
		// on copy-up.
		data = append(data, "overlayfs_stale_read")
	} else {
		// Others may change what is behind a bind mount; nobody changes a root.
		data = append(data, "cache=remote_revalidating")
	}
	opts.GetFilesystemOptions.Data = strings.Join(data, ",")
	opts.GetFilesystemOptions.InternalData = gofer.InternalFilesystemOptions{
		UniqueID: checkpoint.ResourceID{ContainerName: m.container, Path: mount.Destination},
	}
	return nil
}

// mountOverlay mounts a writable tmpfs over the given lower layer. What the
// guest writes lives in the sandbox's memory and travels with it.
func (m *mounter) mountOverlay(lowerName string, lowerOpts *vfs.MountOptions) (*vfs.Mount, error) {
	v := m.k.VFS()
	overlayOpts := *lowerOpts
	overlayOpts.GetFilesystemOptions = vfs.GetFilesystemOptions{InternalMount: true}
	lowerOpts.ReadOnly = true
	lower, err := v.MountDisconnected(m.ctx, m.creds, "", lowerName, lowerOpts)
	if err != nil {
		return nil, fmt.Errorf("mount lower layer: %w", err)
	}
	defer lower.DecRef(m.ctx)
	lowerRoot := vfs.MakeVirtualDentry(lower, lower.Root())
	stat, err := v.StatAt(m.ctx, m.creds, &vfs.PathOperation{Root: lowerRoot, Start: lowerRoot},
		&vfs.StatOptions{Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_MODE | linux.STATX_TYPE})
	if err != nil {
		return nil, fmt.Errorf("stat lower layer: %w", err)
	}
	fileType := stat.Mode & linux.S_IFMT
	upperOpts := overlayOpts
	upperOpts.GetFilesystemOptions.InternalData = tmpfs.FilesystemOpts{RootFileType: fileType, DisableDefaultSizeLimit: true}
	upper, err := v.MountDisconnected(m.ctx, m.creds, "", tmpfs.Name, &upperOpts)
	if err != nil {
		return nil, fmt.Errorf("mount upper layer: %w", err)
	}
	defer upper.DecRef(m.ctx)
	upperRoot := vfs.MakeVirtualDentry(upper, upper.Root())
	if fileType == linux.S_IFREG {
		if err := m.copyFile(upperRoot, lowerRoot); err != nil {
			return nil, fmt.Errorf("copy overlaid file up: %w", err)
		}
	}
	// The upper layer's root must look like the lower's.
	err = v.SetStatAt(m.ctx, m.creds, &vfs.PathOperation{Root: upperRoot, Start: upperRoot}, &vfs.SetStatOptions{Stat: linux.Statx{
		Mask: (linux.STATX_UID | linux.STATX_GID | linux.STATX_MODE) & stat.Mask,
		UID:  stat.UID, GID: stat.GID, Mode: stat.Mode,
	}})
	if err != nil {
		return nil, fmt.Errorf("set owner and mode of upper layer: %w", err)
	}
	overlayOpts.GetFilesystemOptions.InternalData = overlay.FilesystemOptions{
		UpperRoot: upperRoot, LowerRoots: []vfs.VirtualDentry{lowerRoot},
	}
	return v.MountDisconnected(m.ctx, m.creds, "", overlay.Name, &overlayOpts)
}

// copyFile copies the regular file that is the root of one mount into another.
func (m *mounter) copyFile(dst, src vfs.VirtualDentry) error {
	v := m.k.VFS()
	from, err := v.OpenAt(m.ctx, m.creds, &vfs.PathOperation{Root: src, Start: src}, &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return err
	}
	defer from.DecRef(m.ctx)
	to, err := v.OpenAt(m.ctx, m.creds, &vfs.PathOperation{Root: dst, Start: dst}, &vfs.OpenOptions{Flags: linux.O_WRONLY})
	if err != nil {
		return err
	}
	defer to.DecRef(m.ctx)
	_, err = vfs.CopyRegularFileData(m.ctx, to, from)
	return err
}

func (m *mounter) modeOf(root vfs.VirtualDentry, name string) (linux.FileMode, error) {
	stat, err := m.k.VFS().StatAt(m.ctx, m.creds,
		&vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name), FollowFinalSymlink: true},
		&vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return 0, err
	}
	return linux.FileMode(stat.Mode), nil
}

// makeMountPoint makes sure that destination exists below root as a directory
// or file. On a read-only layer it is synthetic: the guest sees it, the host
// does not.
func (m *mounter) makeMountPoint(root vfs.VirtualDentry, destination string, dir bool) error {
	mode, err := m.modeOf(root, destination)
	switch {
	case err == nil && mode.IsDir() != dir:
		return fmt.Errorf("mount point exists but is %s", map[bool]string{true: "a directory", false: "not a directory"}[mode.IsDir()])
	case err == nil:
		return nil
	case !linuxerr.Equals(linuxerr.ENOENT, err):
		return fmt.Errorf("look up mount point: %w", err)
	}
	v := m.k.VFS()
	synthetic := &vfs.MkdirOptions{Mode: 0o755, ForSyntheticMountpoint: true}
	if err := v.MkdirAllAt(m.ctx, path.Dir(destination), root, m.creds, synthetic, true); err != nil {
		return fmt.Errorf("create parent of mount point: %w", err)
	}
	target := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(destination)}
	if dir {
		err = v.MkdirAt(m.ctx, m.creds, target, synthetic)
	} else {
		err = v.MknodAt(m.ctx, m.creds, target, &vfs.MknodOptions{Mode: linux.S_IFREG | 0o644})
	}
	if linuxerr.Equals(linuxerr.EROFS, err) {
		return fmt.Errorf("mount point does not exist and cannot be created below a read-only mount: create an empty file there in the root filesystem")
	}
	if err != nil {
		return fmt.Errorf("create mount point: %w", err)
	}
	return nil
}
