package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNamespace runs fn on a thread that is in the network namespace at nsPath,
// such as /run/netns/x or /proc/PID/ns/net. The empty path is the caller's own
// namespace. fn must not start goroutines that rely on the namespace; sockets
// that it opens stay in it.
func InNamespace(nsPath string, fn func() error) error {
	if nsPath == "" {
		return fn()
	}
	target, err := os.Open(nsPath)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	done := make(chan error, 1)
	go func() { done <- onNamespaceThread(int(target.Fd()), fn) }()
	if err := <-done; err != nil {
		return fmt.Errorf("network namespace %s: %w", nsPath, err)
	}
	return nil
}

// onNamespaceThread enters the namespace, runs fn and comes back. A thread that
// cannot come back stays locked, and ends with its goroutine.
func onNamespaceThread(target int, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(target, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter: %w", err)
	}
	fnErr := fn()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return errors.Join(fnErr, fmt.Errorf("leave: %w", err))
	}
	runtime.UnlockOSThread()
	return fnErr
}

// isHostNamespace says whether the thread is in the machine's first network
// namespace: only that one has the device-independent core settings.
func isHostNamespace() (bool, error) {
	err := unix.Access("/proc/sys/net/core/dev_weight", unix.F_OK)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
