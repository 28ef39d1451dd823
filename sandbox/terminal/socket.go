package terminal

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrNone says that no terminal can be attached to.
var ErrNone = errors.New("no terminal is kept")

// socketName is the name of the socket for a process's terminal; 0 is the
// container's first.
func socketName(pid int32) string {
	if pid == 0 {
		return "terminal.sock"
	}
	return "terminal-" + strconv.Itoa(int(pid)) + ".sock"
}

// Listen makes the socket for the terminal of a process in the state directory
// dir. It goes with the listener.
func Listen(dir string, pid int32) (*net.UnixListener, error) {
	path, done, err := shortPath(dir, pid)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for who attaches: %w", err)
	}
	l.SetUnlinkOnClose(false) // path ends here; the socket goes with the directory
	return l, nil
}

// Dial connects to the keeper of a process's terminal. The error wraps ErrNone
// where there is none.
func Dial(dir string, pid int32) (*net.UnixConn, error) {
	path, done, err := shortPath(dir, pid)
	if err != nil {
		return nil, err
	}
	defer done()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, ErrNone
	}
	return conn, err
}

// shortPath returns a path for the socket that fits into a socket address however
// deep dir is, and the function that ends its validity.
func shortPath(dir string, pid int32) (string, func(), error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open state directory %q: %w", dir, err)
	}
	return filepath.Join("/proc/self/fd", strconv.Itoa(fd), socketName(pid)), func() { unix.Close(fd) }, nil
}
