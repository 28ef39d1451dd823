package spare

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// CPUs is a set of CPUs as sched_setaffinity(2) takes it, large enough for the most that Linux can be built for (8192).
type CPUs [128]uint64

// cpusBytes is the size of CPUs.
const cpusBytes = unsafe.Sizeof(CPUs{})

// AffinityArgs are what a process under a seccomp filter must be allowed to call for Together, with any thread: system call and size of the set.
func AffinityArgs() (number, size uintptr) { return syscall.SYS_SCHED_SETAFFINITY, cpusBytes }

// getcpu says how the architecture calls getcpu(2), which package syscall does not know everywhere; 0 where nobody has looked that up.
func getcpu() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 309
	case "arm64":
		return 168
	}
	return 0
}

// CurrentCPU returns the number of the CPU that the caller is on.
func CurrentCPU() (int, error) {
	number := getcpu()
	if number == 0 {
		return 0, fmt.Errorf("ask for the current CPU: %w", syscall.ENOSYS)
	}
	var cpu uint32
	if _, _, errno := syscall.RawSyscall(number, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return 0, fmt.Errorf("ask for the current CPU: %w", errno)
	}
	return int(cpu), nil
}

var (
	// errNotAllowed says that whoever started the process keeps it off a CPU.
	errNotAllowed = errors.New("process is not allowed there")
	// errNotFirst says that there are threads beside the process's own.
	errNotFirst = errors.New("process is not the first of its PID namespace")
)

// AllowedCPUs returns where this process may run.
func AllowedCPUs() (*CPUs, error) {
	var allowed CPUs
	_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, cpusBytes, uintptr(unsafe.Pointer(&allowed)))
	if errno != 0 {
		return nil, fmt.Errorf("ask for allowed CPUs: %w", errno)
	}
	return &allowed, nil
}

// Together keeps all threads of this process on one CPU of c until apart is called, which lets them go back to all of c. Threads that
// hand work to each other all the time, also those of another process that does the same, then do so without waking a second CPU.
//
// It waits for every thread, so none may be waiting for something slow. The process must be the first of its PID namespace.
func (c *CPUs) Together(cpu int) (apart func() error, err error) {
	if cpu < 0 || cpu >= len(c)*64 || c[cpu/64]&(1<<(cpu%64)) == 0 {
		return nil, fmt.Errorf("stay on CPU %d: %w", cpu, errNotAllowed)
	}
	if c.count() == 1 {
		return func() error { return nil }, nil
	}
	if os.Getpid() != 1 {
		return nil, fmt.Errorf("stay on CPU %d: %w", cpu, errNotFirst)
	}
	var one CPUs
	one[cpu/64] = 1 << (cpu % 64)
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, cpusBytes, uintptr(unsafe.Pointer(&one)))
	if errno != 0 {
		return nil, fmt.Errorf("stay on CPU %d: %w", cpu, errno)
	}
	return c.allowAll, nil
}

// TogetherFor is Together for a time. failed is told if the threads could not part then.
func (c *CPUs) TogetherFor(cpu int, d time.Duration, failed func(error)) error {
	apart, err := c.Together(cpu)
	if err != nil {
		return err
	}
	time.AfterFunc(d, func() {
		if err := apart(); err != nil {
			failed(fmt.Errorf("use all CPUs again: %w", err))
		}
	})
	return nil
}

func (c *CPUs) count() (n int) {
	for _, word := range c {
		n += bits.OnesCount64(word)
	}
	return n
}

// maxGap is how many numbers in a row may belong to no thread any more: more than are used up while processes are together.
const maxGap = 4096

// allowAll allows all threads of the PID namespace these CPUs, one after another: one that waits for a slow disk must not hold up the others, as it
// would if all did it themselves. A thread that another has made meanwhile inherits what that one had, and has a higher number, so it is met too.
func (c *CPUs) allowAll() error {
	var failed error
	for thread, gap := uintptr(1), 0; gap < maxGap; thread++ {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, thread, cpusBytes, uintptr(unsafe.Pointer(c)))
		switch errno {
		case 0:
			gap = 0
		case syscall.ESRCH:
			gap++
		default:
			gap, failed = 0, fmt.Errorf("allow thread %d all CPUs again: %w", thread, errno)
		}
	}
	return failed
}
