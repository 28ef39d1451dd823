package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// below says whether a clean absolute path is dir or something in it.
func below(name, dir string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}

// IsSystemMount says whether a host path belongs to the host's kernel: /proc and
// /sys and what is below.
func IsSystemMount(name string) bool {
	name = path.Clean(name)
	return below(name, "/proc") || below(name, "/sys")
}

// IsHostDevice says whether a host path is /dev or, below it, anything that is
// not a regular file. The mode is that of stat(2).
func IsHostDevice(name string, mode uint32) bool {
	return below(path.Clean(name), "/dev") && mode&unix.S_IFMT != unix.S_IFREG
}

// CheckSource looks at the host path that is to back a mount, following
// symlinks, and says whether it is a file. It is of type *Error where the path
// does not exist, cannot be served, or must not be.
func CheckSource(source string) (isFile bool, err error) {
	mode, e := statSource(source)
	if e != nil {
		return false, e
	}
	return mode&unix.S_IFMT != unix.S_IFDIR, nil
}

// statSource does what CheckSource promises and returns the mode of stat(2).
func statSource(source string) (mode uint32, _ *Error) {
	fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, openError(source, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, openError(source, err)
	}
	system, err := isSystem(fd, source)
	if err != nil {
		return 0, openError(source, err)
	}
	resolved := resolvedPath(fd, source)
	if system || IsSystemMount(resolved) || IsHostDevice(resolved, st.Mode) {
		return 0, &Error{Code: CodeSourceSystem, Mount: source, Found: fmt.Sprintf("source %q of the host's kernel", resolved),
			Expected: "files", Remedy: "leave the mount out; a sandbox has its own /proc, /sys and /dev"}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFIFO:
		return st.Mode, nil
	default:
		return 0, &Error{Code: CodeSourceKind, Mount: source, Found: fmt.Sprintf("source %q, a device", source),
			Expected: "a directory, file, socket or FIFO", Remedy: "leave the mount out; host devices are not served"}
	}
}

// isSystem says whether an open file is of procfs or sysfs, wherever that is
// mounted.
func isSystem(fd int, source string) (bool, error) {
	if IsSystemMount(source) {
		return true, nil // also where a link in it leads out, as /proc/PID/root does
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, err
	}
	return st.Type == unix.PROC_SUPER_MAGIC || st.Type == unix.SYSFS_MAGIC, nil
}

// resolvedPath returns where an open file is, as the kernel sees it.
func resolvedPath(fd int, source string) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf)
	if err != nil || n == 0 || buf[0] != '/' {
		return source
	}
	return string(buf[:n])
}

func openError(source string, err error) *Error {
	e := &Error{Code: CodeSource, Mount: source, Found: fmt.Sprintf("source %q: %v", source, err), Expected: "a path of this host",
		Remedy: "make the source accessible", cause: err}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		e.Code, e.Found = CodeSourceMissing, fmt.Sprintf("source %q, which does not exist", source)
		e.Remedy = "create the source or correct its path"
	}
	return e
}
