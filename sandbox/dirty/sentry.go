package dirty

import (
	"errors"
	"fmt"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
)

// sentry tracks what is written through the sentry's own mappings of the memory
// file, which pgalloc owns and never removes.
type sentry struct {
	descriptors Descriptors
	memoryFile  *pgalloc.MemoryFile
	chunks      []chunk // those registered for write-protection
}

// follow registers the chunks that the file has grown by, and returns their
// pages [start, end): nothing is known about these.
func (s *sentry) follow() (start, end uint64, err error) {
	start = uint64(len(s.chunks)) * chunkPages
	for uint64(len(s.chunks))*chunkBytes < s.memoryFile.TotalSize() {
		addr, err := chunkAddress(s.memoryFile, len(s.chunks))
		if err != nil {
			return 0, 0, err
		}
		if err := uffdRegister(s.descriptors.userfaultfd, addr, chunkBytes, uffdRegisterModeWP); err != nil {
			return 0, 0, fmt.Errorf("register the sentry's memory for write-protection: %w", err)
		}
		s.chunks = append(s.chunks, chunk{addr})
	}
	return start, uint64(len(s.chunks)) * chunkPages, nil
}

// chunkAddress returns where pgalloc has mapped a chunk.
func chunkAddress(mf *pgalloc.MemoryFile, number int) (uintptr, error) {
	start := uint64(number) * chunkBytes
	blocks, err := mf.MapInternal(memmap.FileRange{Start: start, End: start + pageSize}, hostarch.Read)
	if err != nil {
		return 0, fmt.Errorf("find the sentry's mapping of memory chunk %d: %w", number, err)
	}
	return blocks.Head().Addr(), nil
}

// written returns the pages written since the last call. With protect, it
// protects them again in the same moment: the application runs.
func (s *sentry) written(protect bool) (*Set, error) {
	flags := uint64(pmScanCheckWPAsync)
	if protect {
		flags |= pmScanWPMatching
	}
	return scanChunks(s.descriptors.pagemap, s.chunks, scanners(protect), flags, pageIsWritten)
}

// close ends the write-protection.
func (s *sentry) close() error {
	var errs []error
	for _, c := range s.chunks {
		errs = append(errs, uffdUnregister(s.descriptors.userfaultfd, c.addr, chunkBytes))
	}
	s.chunks = nil
	return errors.Join(errs...)
}
