package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// firstPreserved is the first descriptor that --preserve-fds counts.
const firstPreserved = 3

// copyStdio returns copies of our own standard streams, for a container.
func copyStdio() ([]*os.File, error) { return copyInherited(0, firstPreserved) }

// copyPreserved returns copies of descriptors 3 to 3+n-1, which our caller
// opened.
func copyPreserved(n int) ([]*os.File, error) {
	if n < 0 {
		return nil, usageError("--preserve-fds is %d, want 0 or more", n)
	}
	return copyInherited(firstPreserved, n)
}

// copyInherited copies n descriptors from first on. The caller closes them.
func copyInherited(first, n int) (files []*os.File, err error) {
	for fd := first; fd < first+n; fd++ {
		if err := checkInherited(fd); err != nil {
			closeAll(files)
			return nil, err
		}
		// Programs that descriptors are preserved for are not ours: the copy
		// must not reach them by accident.
		duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstPreserved)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("pass descriptor %d on: %w", fd, err)
		}
		files = append(files, os.NewFile(uintptr(duplicate), fmt.Sprintf("fd-%d", fd)))
	}
	return files, nil
}

// checkInherited refuses a descriptor that our caller did not open. What came
// through exec is not marked close-on-exec; all that this program opens itself
// is, and must not end up in a guest.
func checkInherited(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC != 0 {
		err = unix.EBADF
	}
	if err != nil {
		return fmt.Errorf("pass descriptor %d on: %w", fd, err)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
