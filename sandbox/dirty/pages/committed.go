package pages

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Committed returns the pages that hold data in the first sizeBytes of the
// memory file fd. It does not commit any.
//
// The file may change meanwhile: each answer was right at some moment of the
// call. The file's offset is moved, which pread and pwrite do not see.
func Committed(fd int, sizeBytes uint64) (*Set, error) {
	limit := sizeBytes / PageSize
	set := NewSet(limit)
	err := WalkCommitted(fd, 0, limit, func(start, end uint64) error {
		set.AddRange(start, end)
		return nil
	})
	return set, err
}

// WalkCommitted calls visit with each run [start, end) of pages within
// [from, to) that hold data in the memory file fd, in ascending order. It ends
// with the first error that visit returns. See Committed.
func WalkCommitted(fd int, from, to uint64, visit func(start, end uint64) error) error {
	for next := from; next < to; {
		start, err := seekPage(fd, next, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // no data from here to the end of the file
		}
		if err != nil {
			return err
		}
		if start >= to {
			return nil
		}
		end, err := seekPage(fd, start, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			return nil // the file was truncated under us
		}
		if err != nil {
			return err
		}
		if end <= start {
			next = start + 1 // punched between the two calls
			continue
		}
		if err := visit(max(start, next), min(end, to)); err != nil {
			return err
		}
		next = end
	}
	return nil
}

// seekPage returns the page of the next data or hole at or after page.
func seekPage(fd int, page uint64, whence int) (uint64, error) {
	offset, err := unix.Seek(fd, int64(page*PageSize), whence)
	if err != nil {
		return 0, fmt.Errorf("seek in memory file at page %d: %w", page, err)
	}
	return uint64(offset) / PageSize, nil
}
