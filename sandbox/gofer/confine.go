package gofer

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/fsgofer/filter"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

const (
	// readCapabilities are what serving read-only files needs.
	readCapabilities = uint64(1 << unix.CAP_DAC_READ_SEARCH)
	// writeCapabilities are what creating and changing files for other owners
	// needs besides.
	writeCapabilities = uint64(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID)
	// setupCapabilities are what enterTree and dropPrivileges need besides.
	setupCapabilities = uint64(1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SETPCAP)
)

// capabilities returns the ones that a gofer keeps, as a bit set.
func capabilities(cfg *childConfig) uint64 {
	if cfg.readOnly() {
		return readCapabilities
	}
	return readCapabilities | writeCapabilities
}

// dropPrivileges keeps only the capabilities of file serving, on all threads,
// and closes the process to inspection by others with its user ID.
func dropPrivileges(cfg *childConfig) error {
	keep := capabilities(cfg)
	if err := spare.LimitBoundingSet(keep); err != nil {
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
	affinity, cpusBytes := spare.AffinityArgs()
	rules := filter.Rules(opts)
	// Where its threads run: there are no others in its PID namespace, see stayTogether.
	rules.Merge(seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		affinity: seccomp.PerArg{seccomp.AnyValue{}, seccomp.EqualTo(cpusBytes)},
	}))
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: seccomp.DenyNewExecMappings},
			{Rules: rules, Action: seccomp.Allow},
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
