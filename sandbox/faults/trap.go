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

// Detect says why a trap cannot be made on this host, or nil.
func Detect() error {
	device, err := OpenDevice()
	if err != nil {
		return err
	}
	defer device.Close()
	fd, err := openUserfaultfd(device)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openUserfaultfd makes a userfaultfd that serves as a trap.
func openUserfaultfd(device *os.File) (int, error) {
	fd, err := newUserfaultfd(int(device.Fd()))
	if err != nil {
		return -1, fmt.Errorf("make a userfaultfd: %w", err)
	}
	if err := handshake(fd, featureMissingShmem); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("userfaultfd for missing pages of shared memory: %w", err)
	}
	return fd, nil
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
	fd, err := openUserfaultfd(device)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
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
