package main

import (
	"fmt"
	"net"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A console is a terminal of the host: what is inside has the slave end, a
// person or a container manager the master end.
type console struct {
	master, slave *os.File
}

// openConsole makes a new terminal. size may be nil.
func openConsole(size *specs.Box) (_ *console, err error) {
	// Neither end may become the controlling terminal of this process.
	masterFD, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	c := &console{master: os.NewFile(uintptr(masterFD), "/dev/ptmx")}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := unix.IoctlSetPointerInt(masterFD, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(masterFD, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("name terminal: %w", err)
	}
	// Not by path: /dev/pts may be another one here.
	slaveFD, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(masterFD), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, fmt.Errorf("open terminal %d: %w", number, errno)
	}
	c.slave = os.NewFile(slaveFD, "/dev/pts/"+strconv.Itoa(number))
	if size != nil && size.Height > 0 && size.Width > 0 {
		if err := c.resize(uint16(size.Height), uint16(size.Width)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *console) resize(rows, cols uint16) error {
	size := &unix.Winsize{Row: rows, Col: cols}
	if err := unix.IoctlSetWinsize(int(c.master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		return fmt.Errorf("set window size: %w", err)
	}
	return nil
}

// close closes both ends. It may be called twice.
func (c *console) close() {
	c.master.Close()
	if c.slave != nil {
		c.slave.Close()
	}
}

// send hands the master end to whoever listens on a Unix socket, as runc does:
// one message, the terminal's name with the descriptor beside it.
func (c *console) send(socketPath string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socketPath, Net: "unix"})
	if err != nil {
		return fmt.Errorf("connect to console socket: %w", err)
	}
	defer conn.Close()
	rights := unix.UnixRights(int(c.master.Fd()))
	if _, _, err := conn.WriteMsgUnix([]byte(c.master.Name()), rights, nil); err != nil {
		return fmt.Errorf("send terminal to console socket: %w", err)
	}
	return nil
}
