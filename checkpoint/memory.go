package checkpoint

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// maxMemoryBytes bounds a memory file: both what reads it and what stores it
// have their limits.
const maxMemoryBytes = min(pages.MaxPages*pages.PageSize, image.MaxFilePages*image.PageBytes)

// checkMemory says whether what a sandbox gave as its memory file is one that
// can be read without fear, and returns its size in bytes. The sandbox process
// may be in the hands of its guest: the file must not be able to shrink under a
// reader, and must not be larger than any memory file is.
func checkMemory(f *os.File) (uint64, error) {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return 0, fmt.Errorf("%w: its memory file is not a sealed one", ErrSandbox)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("size of sandbox memory: %w", err)
	}
	if uint64(info.Size()) > maxMemoryBytes {
		return 0, fmt.Errorf("%w: it has %d bytes of memory, limit is %d", ErrSandbox, info.Size(), uint64(maxMemoryBytes))
	}
	return uint64(info.Size()), nil
}
