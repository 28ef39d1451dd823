package spare

import (
	"fmt"
	"syscall"
)

// lastCapability bounds the walk over the bounding set; the kernel answers
// EINVAL behind its own last one.
const lastCapability = 63

// limitCapabilities drops what is not in keep from the bounding set of the calling
// thread.
func limitCapabilities(keep uint64) error {
	return dropFromBoundingSet(keep, func(capability uintptr) syscall.Errno {
		_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_DROP, capability, 0)
		return errno
	})
}

// LimitBoundingSet drops what is not in keep, a bit set, from the bounding set of the
// process. Each capability stops all threads, so it is cheaper the earlier it is done;
// what has been dropped costs nothing again.
func LimitBoundingSet(keep uint64) error {
	return dropFromBoundingSet(keep, func(capability uintptr) syscall.Errno {
		_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_DROP, capability, 0)
		return errno
	})
}

func dropFromBoundingSet(keep uint64, drop func(capability uintptr) syscall.Errno) error {
	for c := uintptr(0); c <= lastCapability; c++ {
		has, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_READ, c, 0)
		if errno == syscall.EINVAL {
			return nil
		}
		if errno == 0 && has == 1 && keep&(1<<c) == 0 {
			errno = drop(c)
		}
		if errno != 0 {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, errno)
		}
	}
	return nil
}
