package faults

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// devicePath is what makes a userfaultfd for whoever may open it.
const devicePath = "/dev/userfaultfd"

// OpenDevice opens what NewTrap needs, for a process that may not open it by
// itself. The caller closes it.
func OpenDevice() (*os.File, error) {
	f, err := os.OpenFile(devicePath, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open what makes a userfaultfd (Linux 6.1 has it): %w", err)
	}
	return f, nil
}

// Trap is the sandbox's end. Its methods may be called by one goroutine at a time.
type Trap struct {
	fd      int
	watched []span
}

// span is a range of addresses.
type span struct{ addr, bytes uintptr }

// NewTrap makes a trap of an open device, under the descriptor number, which is
// free. The caller closes both.
func NewTrap(device *os.File, number int) (*Trap, error) {
	fd, err := newUserfaultfd(int(device.Fd()))
	if err != nil {
		return nil, fmt.Errorf("make a userfaultfd: %w", err)
	}
	defer unix.Close(fd)
	if err := handshake(fd, featureMissingShmem); err != nil {
		return nil, fmt.Errorf("userfaultfd for missing pages of shared memory: %w", err)
	}
	if err := unix.Dup3(fd, number, unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("move userfaultfd to %d: %w", number, err)
	}
	return &Trap{fd: number}, nil
}

// FD is the descriptor, for the pager. The Trap keeps it.
func (t *Trap) FD() int { return t.fd }

// Watch makes accesses to holes in a mapping of shared memory wait, from now on.
func (t *Trap) Watch(addr, bytes uintptr) error {
	if err := register(t.fd, addr, bytes); err != nil {
		return fmt.Errorf("trap accesses to memory at %#x: %w", addr, err)
	}
	t.watched = append(t.watched, span{addr, bytes})
	return nil
}

// Close lets all accesses go on: what is a hole reads as zeros.
func (t *Trap) Close() error {
	var errs []error
	for _, s := range t.watched {
		errs = append(errs, unregister(t.fd, s.addr, s.bytes))
	}
	t.watched = nil
	return errors.Join(append(errs, unix.Close(t.fd))...)
}

// SeccompRules returns what a process must be allowed to use a trap under a
// descriptor number.
func SeccompRules(number int) seccomp.SyscallRules {
	rules := seccomp.NewSyscallRules()
	rules.Add(unix.SYS_IOCTL, seccomp.Or{
		seccomp.PerArg{seccomp.EqualTo(number), seccomp.EqualTo(ioctlRegister), seccomp.AnyValue{}},
		seccomp.PerArg{seccomp.EqualTo(number), seccomp.EqualTo(ioctlUnregister), seccomp.AnyValue{}},
	})
	return rules
}
