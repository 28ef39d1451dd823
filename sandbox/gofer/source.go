package gofer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sourceAttributes are set on every served mount. A gofer opens no device and
// executes nothing; not following symlinks is the server's own rule, which the
// host enforces too. Executing stays allowed: the sandbox maps programs from
// descriptors that a gofer opened.
const sourceAttributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSYMFOLLOW

// openSource returns a detached clone of the mount tree at m.Source, with all
// its flags set, and what a gofer process needs to know about it.
func openSource(m Mount) (*os.File, childMount, error) {
	told := childMount{ReadOnly: m.ReadOnly, DirectFS: m.DirectFS}
	var recursive uint
	if m.Recursive {
		recursive = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
	if err != nil {
		return nil, told, needsKernel("clone the mount", err)
	}
	tree := os.NewFile(uintptr(fd), m.Source)
	told.Directory, err = checkSource(fd)
	if err == nil {
		err = restrictMount(fd, m.ReadOnly, recursive)
	}
	if err != nil {
		tree.Close()
		return nil, told, err
	}
	return tree, told, nil
}

// checkSource tells a directory from a file and refuses what is neither.
func checkSource(fd int) (directory bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return true, nil
	case unix.S_IFREG, unix.S_IFSOCK, unix.S_IFIFO:
		return false, nil
	default:
		return false, errors.New("a device cannot be served")
	}
}

// restrictMount sets the flags of a detached mount tree and takes it out of its
// peer groups, so that no mount event passes between it and the host.
func restrictMount(fd int, readOnly bool, recursive uint) error {
	attr := unix.MountAttr{Attr_set: sourceAttributes, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|recursive, &attr); err != nil {
		return needsKernel("restrict the mount", err)
	}
	return nil
}

// needsKernel explains the errors by which an older kernel says that it does
// not know a call or a flag.
func needsKernel(doing string, err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w (a gofer needs Linux 5.14)", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
