package dirty

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// witness notices pages that are punched out of the memory file, even if they
// have come back since. It maps the file read-only, and nothing ever touches
// the mapping: a page is present in it from the moment at which it was put there
// until it is punched.
type witness struct {
	descriptors Descriptors
	fd          int // the memory file; borrowed
	chunks      []chunk
	seen        Set // the pages that were put there
}

// follow maps the chunks that the file has grown by.
func (w *witness) follow(sizeBytes uint64) error {
	for uint64(len(w.chunks))*chunkBytes < sizeBytes {
		addr, err := mapReadOnly(w.fd, uint64(len(w.chunks))*chunkBytes, chunkBytes)
		if err != nil {
			return fmt.Errorf("map memory to notice freed pages: %w", err)
		}
		w.chunks = append(w.chunks, chunk{addr})
		// Minor mode is what allows UFFDIO_CONTINUE. It also turns off
		// fault-around, which could put pages back.
		if err := uffdRegister(w.descriptors.userfaultfd, addr, chunkBytes, uffdRegisterModeMinor); err != nil {
			return fmt.Errorf("register memory to notice freed pages: %w", err)
		}
	}
	w.seen.Grow(uint64(len(w.chunks)) * chunkPages) // so that chunks can be watched at once
	return nil
}

// vanished returns the pages that were put here and have been punched since, and
// forgets them. A page that the kernel has taken out for its own reasons, as to
// swap it, is among them.
func (w *witness) vanished(running bool) (*Set, error) {
	present, err := scanChunks(w.descriptors.pagemap, w.chunks, scanners(running), 0, pageIsPresent)
	if err != nil {
		return nil, err
	}
	gone := w.seen.Clone()
	gone.Subtract(present)
	w.seen.Subtract(gone)
	return gone, nil
}

// watch puts those pages of set here that hold data. Whoever reads one of them
// afterwards, reads what it was or what it became by a write or a punch that is
// noticed.
func (w *witness) watch(set *Set) error {
	return forChunks(w.chunks, scanners(true), func(i int) error {
		start := uint64(i) * chunkPages
		for s, e := range set.RangesWithin(start, start+chunkPages) {
			if err := w.put(s, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// putPages is how many pages are put here at once: the host's kernel locks this
// process's mappings meanwhile.
const putPages = 4 << 20 / pageSize

// put makes the pages [start, end) of one chunk present, except for holes.
func (w *witness) put(start, end uint64) error {
	base := w.chunks[start/chunkPages].addr
	for page := start; page < end; {
		offset := uintptr(page%chunkPages) * pageSize
		done, err := uffdContinue(w.descriptors.userfaultfd, base+offset, uintptr(min(end-page, putPages))*pageSize)
		switch {
		case err == nil:
			count := uint64(done) / pageSize
			w.seen.AddRange(page, page+count)
			page += count
		case errors.Is(err, unix.EEXIST):
			w.seen.Add(page) // put here before, and still present
			page++
		case errors.Is(err, unix.EFAULT), errors.Is(err, unix.ENOENT):
			next, err := pages.NextCommitted(w.fd, page+1, end)
			if err != nil {
				return err
			}
			w.seen.RemoveRange(page, next) // a hole
			page = next
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("watch page %d of the memory file: %w", page, err)
		}
	}
	return nil
}

// close unmaps everything.
func (w *witness) close() error {
	var errs []error
	for _, c := range w.chunks {
		errs = append(errs, unmap(c.addr, chunkBytes))
	}
	w.chunks = nil
	return errors.Join(errs...)
}
