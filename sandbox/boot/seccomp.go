package boot

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

// installSeccomp puts the process under gVisor's own filter for a sentry: the
// system calls that the sentry, its platform and the control socket need, with
// their arguments checked, and extra. It applies to all threads and cannot be
// undone.
//
// The filter has no openat, no socket and no execve: from here on the process
// has the descriptors that it has.
func installSeccomp(p platform.Platform, controlFD uintptr, extra ...seccomp.SyscallRules) error {
	opts := config.Options{Platform: p.SeccompInfo(), ControllerFD: uint32(controlFD)}
	rules, deny := config.Rules(opts)
	for _, r := range extra {
		rules.Merge(r)
	}
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: deny},
			{Rules: rules, Action: seccomp.Allow},
		},
		Options: config.SeccompOptions(opts),
	}
	if err := program.Install(); err != nil {
		return fmt.Errorf("install seccomp filter: %w", err)
	}
	return nil
}
