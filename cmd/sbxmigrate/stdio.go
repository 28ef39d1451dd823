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

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
