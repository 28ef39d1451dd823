package gofer

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/fsgofer/filter"
)

const (
	// readCapabilities are what serving read-only files needs.
	readCapabilities = uint64(1 << unix.CAP_DAC_READ_SEARCH)
	// writeCapabilities are what creating and changing files for other owners
	// needs besides.
	writeCapabilities = uint64(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID)
	// lastCapability bounds the walk over the bounding set; the kernel answers
	// EINVAL behind its own last one.
	lastCapability = 63
)

// capabilities returns the ones that a gofer keeps, as a bit set.
func capabilities(cfg *childConfig) uint64 {
	if cfg.readOnly() {
		return readCapabilities
	}
	return readCapabilities | writeCapabilities
}

// dropPrivileges keeps only the capabilities of file serving, on all threads,
// forbids gaining any by exec, and closes the process to inspection by others
// with its user ID.
func dropPrivileges(cfg *childConfig) error {
	keep := capabilities(cfg)
	for c := uintptr(0); c <= lastCapability; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		errno := prctlAllThreads(unix.PR_CAPBSET_DROP, c)
		if errno == unix.EINVAL {
			break
		}
		if errno != 0 {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, errno)
		}
	}
	if errno := prctlAllThreads(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); errno != 0 {
		return fmt.Errorf("clear ambient capabilities: %w", errno)
	}
	if errno := prctlAllThreads(unix.PR_SET_NO_NEW_PRIVS, 1); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	header, data := capsetArgs(keep)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, header, data, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set undumpable: %w", err)
	}
	return nil
}

// prctlAllThreads calls prctl(2) with its unused arguments zero.
func prctlAllThreads(option, arg uintptr) syscall.Errno {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, arg, 0, 0, 0, 0)
	return errno
}

// installSeccomp puts all threads under gVisor's filter for gofers. It has no
// mount, socket, connect or execve; openat stays, below the gofer's root.
func installSeccomp(cfg *childConfig) error {
	opts := filter.Options{DirectFS: true}
	for _, m := range cfg.Mounts {
		opts.LisafsNeeded = opts.LisafsNeeded || !m.DirectFS
	}
	if err := filter.Install(opts); err != nil {
		return fmt.Errorf("install seccomp filter: %w", err)
	}
	return nil
}
