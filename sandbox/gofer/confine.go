package gofer

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/fsgofer/filter"
)

const (
	// readCapabilities are what serving read-only files needs.
	readCapabilities = uint64(1 << unix.CAP_DAC_READ_SEARCH)
	// writeCapabilities are what creating and changing files for other owners
	// needs besides.
	writeCapabilities = uint64(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID)
	// setupCapabilities are what enterTree and dropPrivileges need besides.
	setupCapabilities = uint64(1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SETPCAP)
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

// limitCapabilities drops what is not in keep from the bounding set of the process.
func limitCapabilities(keep uint64) error {
	for c := uintptr(0); c <= lastCapability; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err == unix.EINVAL {
			return nil
		}
		if err == nil && has == 1 && keep&(1<<c) == 0 {
			err = dropAllThreads(c)
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	return nil
}

// dropAllThreads drops a capability from the bounding set of the process.
func dropAllThreads(capability uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// dropPrivileges keeps only the capabilities of file serving, on all threads,
// and closes the process to inspection by others with its user ID.
func dropPrivileges(cfg *childConfig) error {
	keep := capabilities(cfg)
	if err := limitCapabilities(keep); err != nil {
		return err
	}
	// With an empty inheritable set the ambient one is empty too.
	header, data := capsetArgs(keep)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, header, data, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set undumpable: %w", err)
	}
	return nil
}

// installSeccomp puts all threads under gVisor's filter for gofers, and sets
// no_new_privs on them. The filter has no mount, socket, connect or execve;
// openat stays, below the gofer's root.
func installSeccomp(cfg *childConfig) error {
	opts := filter.Options{DirectFS: true}
	for _, m := range cfg.Mounts {
		opts.LisafsNeeded = opts.LisafsNeeded || !m.DirectFS
	}
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: seccomp.DenyNewExecMappings},
			{Rules: filter.Rules(opts), Action: seccomp.Allow},
		},
		// Optimizing takes four times as long as building, and most calls of a
		// gofer are allowed without a look at the program (the kernel remembers
		// which calls are allowed whatever their arguments).
		Options: seccomp.ProgramOptions{SkipOptimizations: true},
	}
	if err := program.Install(); err != nil {
		return fmt.Errorf("install seccomp filter: %w", err)
	}
	return nil
}
