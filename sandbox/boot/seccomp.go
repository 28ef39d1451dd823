package boot

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// A sandbox process is under gVisor's own filter for a sentry: the system
// calls that the sentry, its platform and the control socket need, with their
// arguments checked, and ownSyscalls. The filter has no openat, no socket and no
// execve: from here on the process has the descriptors that it has.
//
// Compiling that filter takes about as long as the rest of the start, and its
// result is the same every time. So it is compiled once, into filter.json; a
// test compiles it again and compares (and writes it anew with -update).

// compiledFilter is a filter and what it was compiled for.
type compiledFilter struct {
	Key          string            `json:"key"`
	Instructions []bpf.Instruction `json:"instructions"`
}

//go:embed filter.json
var precompiledFilter []byte

// ownSyscalls are what this program needs beyond gVisor's sentry.
func ownSyscalls() seccomp.SyscallRules {
	packetFanout := seccomp.PerArg{
		seccomp.AnyValue{}, seccomp.EqualTo(unix.SOL_PACKET), seccomp.EqualTo(unix.PACKET_FANOUT),
	}
	affinity, cpusBytes := spare.AffinityArgs()
	return seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		// Where threads run, its own and its stubs': there are no others in its PID namespace. See together.go.
		affinity: seccomp.PerArg{seccomp.AnyValue{}, seccomp.EqualTo(cpusBytes)},
		// Pipes for streams, see streams.go.
		unix.SYS_PIPE2: seccomp.MatchAll{},
		// What network endpoints are made with: each looks at its packet socket,
		// joins a fan-out group, and waits for an event to stop.
		unix.SYS_GETSOCKNAME: seccomp.MatchAll{},
		unix.SYS_GETSOCKOPT:  packetFanout,
		unix.SYS_SETSOCKOPT:  packetFanout,
		unix.SYS_EVENTFD2:    seccomp.PerArg{seccomp.EqualTo(0), seccomp.EqualTo(unix.EFD_NONBLOCK)},
	})
}

// filterParts is what a filter is made for.
type filterParts struct {
	platform  platform.Platform
	controlFD uintptr
	tracking  dirty.Descriptors
}

// installSeccomp puts all threads of the process under the filter, for good.
func installSeccomp(p filterParts) error {
	var ready compiledFilter
	if err := json.Unmarshal(precompiledFilter, &ready); err != nil {
		return fmt.Errorf("read seccomp filter: %w", err)
	}
	if key := p.key(); ready.Key != key {
		log.Infof("seccomp filter was compiled for %q, need %q: compiling", ready.Key, key)
		fresh, err := p.compile()
		if err != nil {
			return err
		}
		ready = *fresh
	}
	if err := seccomp.SetFilter(ready.Instructions); err != nil {
		return fmt.Errorf("install seccomp filter: %w", err)
	}
	return nil
}

// key holds all that a compiled filter depends on, but for the code.
func (p filterParts) key() string {
	info := p.platform.SeccompInfo()
	return fmt.Sprintf("%s %s control=%d tracking=%v trap=%d pid=%d vars=%v",
		runtime.GOARCH, info.ConfigKey(), p.controlFD, p.tracking, trapFD, unix.Getpid(), info.Variables())
}

func (p filterParts) compile() (*compiledFilter, error) {
	opts := config.Options{Platform: p.platform.SeccompInfo(), ControllerFD: uint32(p.controlFD)}
	rules, deny := config.Rules(opts)
	rules.Merge(ownSyscalls())
	rules.Merge(p.tracking.SeccompRules())
	rules.Merge(faults.SeccompRules(trapFD))
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{
			{Rules: deny},
			{Rules: rules, Action: seccomp.Allow},
		},
		Options: config.SeccompOptions(opts),
	}
	instructions, _, err := program.Build()
	if err != nil {
		return nil, fmt.Errorf("compile seccomp filter: %w", err)
	}
	return &compiledFilter{Key: p.key(), Instructions: instructions}, nil
}
