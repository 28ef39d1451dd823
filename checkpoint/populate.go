package checkpoint

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// pageSet asks a sandbox for a set of pages.
func pageSet(ctx context.Context, client *control.Client, method string) (*pages.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var out inside.PageRanges
	if err := client.Call(ctx, method, &control.None{}, &out); err != nil {
		return nil, err
	}
	set := &pages.Set{}
	for _, r := range out.Ranges {
		if r[0] >= r[1] || r[1] > pages.MaxPages {
			return nil, fmt.Errorf("%w: it names pages %d to %d", ErrSandbox, r[0], r[1])
		}
		set.AddRange(r[0], r[1])
	}
	return set, nil
}

// populateMapped commits the pages that a sandbox's processes have mapped and not
// touched yet. The kernel's save would otherwise read each of them, to see that it
// is zero, and give it back to the host.
func populateMapped(ctx context.Context, client *control.Client, memory *os.File) error {
	mapped, err := pageSet(ctx, client, inside.MethodMapped)
	if err != nil {
		return err
	}
	info, err := memory.Stat()
	if err != nil {
		return err
	}
	size := uint64(info.Size())
	mapped.RemoveRange(size/pages.PageSize, pages.MaxPages)
	committed, err := pages.Committed(int(memory.Fd()), size)
	if err != nil {
		return err
	}
	mapped.Subtract(committed)
	return populate(memory, mapped)
}

// populate commits the pages of a set. They must lie inside the file, which
// cannot shrink.
func populate(memory *os.File, set *pages.Set) error {
	const windowPages = 1 << 18
	for start, end := range set.Ranges() {
		for ; start < end; start += windowPages {
			n := min(end-start, windowPages)
			window, err := unix.Mmap(int(memory.Fd()), int64(start*pages.PageSize), int(n*pages.PageSize), unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return fmt.Errorf("map sandbox memory: %w", err)
			}
			err = unix.Madvise(window, unix.MADV_POPULATE_READ)
			unix.Munmap(window)
			if err != nil {
				return fmt.Errorf("populate sandbox memory: %w", err)
			}
		}
	}
	return nil
}
