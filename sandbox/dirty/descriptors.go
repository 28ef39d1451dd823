package dirty

import (
	"fmt"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
)

// requiredUserfaultfd are the features that tracking asks of a userfaultfd.
const requiredUserfaultfd = uffdFeatureMinorShmem | uffdFeatureWPAsync | uffdFeatureWPUnpopulated |
	uffdFeatureWPHugetlbfsShmem | uffdFeaturePagefaultFlagWP

// Descriptors are what tracking must open before seccomp forbids it. The zero
// value has none.
type Descriptors struct {
	open        bool
	userfaultfd int
	pagemap     int
}

// OpenDescriptors opens them for the memory of the calling process. It fails
// with ErrUnsupported where the kernel is too old (before 6.7) or forbids
// userfaultfd. The caller closes them.
func OpenDescriptors() (Descriptors, error) {
	uffd, err := openUserfaultfd()
	if err != nil {
		return Descriptors{}, fmt.Errorf("%w: userfaultfd: %w", ErrUnsupported, err)
	}
	if _, err := uffdHandshake(uffd, requiredUserfaultfd); err != nil {
		unix.Close(uffd)
		return Descriptors{}, fmt.Errorf("%w: userfaultfd without asynchronous write-protection of shared memory: %w", ErrUnsupported, err)
	}
	pagemap, err := unix.Open("/proc/self/pagemap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(uffd)
		return Descriptors{}, fmt.Errorf("%w: open pagemap: %w", ErrUnsupported, err)
	}
	return Descriptors{open: true, userfaultfd: uffd, pagemap: pagemap}, nil
}

// Move gives the descriptors the numbers first and first+1, so that rules on
// them can be written down before they are open. It returns them under these
// numbers; the old ones are gone.
func (d Descriptors) Move(first int) (Descriptors, error) {
	if !d.open {
		return d, nil
	}
	moved := Descriptors{open: true, userfaultfd: first, pagemap: first + 1}
	for _, m := range [][2]int{{d.userfaultfd, moved.userfaultfd}, {d.pagemap, moved.pagemap}} {
		if err := unix.Dup3(m[0], m[1], unix.O_CLOEXEC); err != nil {
			return d, fmt.Errorf("move descriptor to %d: %w", m[1], err)
		}
		unix.Close(m[0])
	}
	return moved, nil
}

// Close closes them. The Tracker that borrowed them is disarmed.
func (d Descriptors) Close() error {
	if !d.open {
		return nil
	}
	unix.Close(d.pagemap)
	return unix.Close(d.userfaultfd)
}

// SeccompRules returns what a sandbox must be allowed, beyond what its kernel
// needs anyway, to arm, collect and disarm: ioctls on exactly these
// descriptors, and a read-only shared mapping.
func (d Descriptors) SeccompRules() seccomp.SyscallRules {
	rules := seccomp.NewSyscallRules()
	if !d.open {
		return rules
	}
	request := func(fd int, number uintptr) seccomp.SyscallRule {
		return seccomp.PerArg{seccomp.EqualTo(fd), seccomp.EqualTo(number), seccomp.AnyValue{}}
	}
	rules.Add(unix.SYS_IOCTL, seccomp.Or{
		request(d.userfaultfd, uffdioRegister),
		request(d.userfaultfd, uffdioUnregister),
		request(d.userfaultfd, uffdioContinue),
		request(d.pagemap, pagemapScanIoctl),
	})
	rules.Add(unix.SYS_MMAP, seccomp.PerArg{
		seccomp.EqualTo(0), seccomp.AnyValue{}, seccomp.EqualTo(unix.PROT_READ), seccomp.EqualTo(unix.MAP_SHARED),
	})
	rules.Add(unix.SYS_MUNMAP, seccomp.MatchAll{})
	rules.Add(unix.SYS_LSEEK, seccomp.MatchAll{})
	return rules
}
