package netlab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// NewNamespace makes a network namespace whose loopback device is down. It lives as long as the file is open, or somebody is inside.
func NewNamespace() (*os.File, error) {
	var ns *os.File
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock
		done <- f()
	}()
	return <-done
}

// Inside runs f on a thread that is in a namespace. Goroutines that f starts are not.
func Inside(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Path is where other processes find a namespace while this one has it open.
func Path(ns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

// Start starts a command in a namespace. The caller waits for it.
func Start(ns *os.File, cmd *exec.Cmd) error { return Inside(ns, cmd.Start) }

// Dial opens a TCP connection to an IPv4 address from a namespace. It gives up after limit; zero waits as long as the kernel does.
func Dial(ns *os.File, address string, limit time.Duration) (net.Conn, error) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	file, err := socket(ns, address)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	timeout := syscall.NsecToTimeval(limit.Nanoseconds())
	if err := syscall.SetsockoptTimeval(int(file.Fd()), syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &timeout); err != nil {
		return nil, fmt.Errorf("limit connecting to %s: %w", address, err)
	}
	// The socket stays in its namespace, whatever thread connects it.
	if err := Connect(int(file.Fd()), &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return net.FileConn(file)
}

// Connect connects a blocking socket, however often a signal interrupts that: Go sends its threads some.
func Connect(fd int, to syscall.Sockaddr) error {
	for {
		switch err := syscall.Connect(fd, to); err {
		case syscall.EINTR:
			// It goes on meanwhile: the next call waits for the same connection.
		case syscall.EISCONN:
			return nil
		default:
			return err
		}
	}
}

// Listen opens a TCP listener on an IPv4 address of a namespace.
func Listen(ns *os.File, address string) (net.Listener, error) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	file, err := socket(ns, address)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := syscall.Bind(int(file.Fd()), &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", address, err)
	}
	if err := syscall.Listen(int(file.Fd()), syscall.SOMAXCONN); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return net.FileListener(file)
}

// socket makes a TCP socket that belongs to a namespace.
func socket(ns *os.File, name string) (file *os.File, err error) {
	err = Inside(ns, func() error {
		// Not by package net, whose resolver and dialler use goroutines of their own: those would be in another namespace.
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err == nil {
			file = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return file, err
}
