package gofer

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/fsgofer"
)

// descriptorTable is where procfs shows a process its own descriptors.
const descriptorTable = "/proc/self/fd"

// newRoot is where the gofer's tree is built: the one directory that is surely
// there to mount on, since descriptorTable is below it.
const newRoot = "/proc"

// rootFlags are those of the gofer's own tmpfs.
const rootFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// openDescriptorTable gives gVisor's server the directory by which it opens its
// own descriptors again: as a detached mount, so that no path leads from it to
// the rest of procfs.
func openDescriptorTable() error {
	table, err := unix.OpenTree(unix.AT_FDCWD, descriptorTable, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone descriptor table: %w", err)
	}
	// Closing it ends the mount; what is open in it stays.
	defer unix.Close(table)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(table, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("restrict descriptor table: %w", err)
	}
	return fsgofer.OpenProcSelfFD(fmt.Sprintf("%s/%d", descriptorTable, table))
}

// mountRoot mounts what will be the root of the process.
func mountRoot() error {
	// The namespace is a copy: without this, mounts would still pass between it
	// and the host.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("gofer", newRoot, "tmpfs", rootFlags, "size=1m,mode=0755"); err != nil {
		return fmt.Errorf("mount new root: %w", err)
	}
	return nil
}

// enterTree makes a tree of the served mounts and nothing else the root of the
// process, and closes their descriptors.
func enterTree(cfg *childConfig, h *handed) error {
	for i, m := range cfg.Mounts {
		if err := attach(i, h.mounts[i].tree, m); err != nil {
			return fmt.Errorf("attach mount %d: %w", i, err)
		}
	}
	return leaveHost()
}

// attach puts the i-th detached tree in its place, and closes it.
func attach(i, tree int, m childMount) error {
	defer unix.Close(tree)
	target := newRoot + mountPath(i)
	if m.Directory {
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
	} else if err := os.WriteFile(target, nil, 0o600); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// leaveHost makes newRoot the root, read-only, and detaches everything else.
func leaveHost() error {
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	// With both arguments the same directory the old root ends up mounted on top
	// of the new one, from where it is detached (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|rootFlags, ""); err != nil {
		return fmt.Errorf("make new root read-only: %w", err)
	}
	return nil
}
