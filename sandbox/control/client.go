package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/unet"
)

// SocketName is the control socket's name inside a sandbox's state directory.
const SocketName = "control.sock"

// listenBacklog must be what the sandbox's seccomp rules allow.
const listenBacklog = 16

// ErrUnreachable says that nobody serves the control socket: the sandbox
// process is gone, or was never there.
var ErrUnreachable = errors.New("sandbox does not answer on its control socket")

// ErrTimeout says that the sandbox is there but did not answer in time. Its
// kernel may be wedged; ending the process itself still works.
var ErrTimeout = errors.New("sandbox did not answer in time")

// RemoteError is an error that the sandbox answered with.
type RemoteError struct {
	Method, Message string
}

func (e *RemoteError) Error() string { return e.Message }

// Listen binds the control socket in dir and returns it, listening. The file
// is handed to the sandbox process, which has no file system of its own.
func Listen(dir string) (*os.File, error) {
	path, done, err := shortPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create control socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), SocketName)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		file.Close()
		return nil, fmt.Errorf("bind control socket in %q: %w", dir, err)
	}
	if err := unix.Listen(fd, listenBacklog); err != nil {
		file.Close()
		return nil, fmt.Errorf("listen on control socket in %q: %w", dir, err)
	}
	return file, nil
}

// shortPath returns a path for dir's socket that fits into a socket address
// however deep dir is, and the function that ends its validity.
func shortPath(dir string) (string, func(), error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open state directory %q: %w", dir, err)
	}
	return filepath.Join(fmt.Sprintf("/proc/self/fd/%d", fd), SocketName), func() { unix.Close(fd) }, nil
}

// Client is one connection to a sandbox. Calls on it are made one at a time.
type Client struct {
	socket *unet.Socket
	mu     sync.Mutex // held during a call
}

// Dial connects to the sandbox whose state directory is dir. The caller closes
// the client. The error wraps ErrUnreachable where nobody serves the socket.
func Dial(ctx context.Context, dir string) (*Client, error) {
	path, done, err := shortPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer conn.Close()
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	socket, err := unet.NewSocket(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Client{socket: socket}, nil
}

// Close ends the connection, and with it a call that is under way.
func (c *Client) Close() error {
	// Shutdown first: Close alone waits for a reader that is blocked.
	c.socket.Shutdown()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.socket.Close()
}

// Call makes one call. When ctx ends first, the connection is closed and the
// error wraps ErrTimeout; whether the sandbox still carried the call out is
// then unknown.
func (c *Client) Call(ctx context.Context, method string, arg, result any) error {
	answered := make(chan error, 1)
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		err := exchange(c.socket, method, arg, result)
		if err != nil && !errors.As(err, new(*RemoteError)) {
			c.socket.Shutdown() // what else comes is no answer to anything
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		return callError(method, err)
	case <-ctx.Done():
		c.Close()
		<-answered // result must not be written after we return
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%s: %w", method, ErrTimeout)
		}
		return ctx.Err()
	}
}

func callError(method string, err error) error {
	remote := (*RemoteError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		return err
	default:
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, method, err)
	}
}

// Call dials the sandbox at dir, makes one call within timeout (0: no limit
// but ctx), and hangs up.
func Call(ctx context.Context, dir string, timeout time.Duration, method string, arg, result any) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c, err := Dial(ctx, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, method, arg, result)
}
