package dirty

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

const (
	// chunkBytes is the unit in which pgalloc grows and maps the memory file.
	chunkBytes = 1 << 30
	chunkPages = chunkBytes / pageSize

	// scanBytes is how much one PAGEMAP_SCAN looks at: the host's kernel locks this
	// process's mappings meanwhile.
	scanBytes = 64 << 20

	// maxScanRegions is how many regions one PAGEMAP_SCAN may return (96 KiB).
	maxScanRegions = 4096
	// maxScanners bounds the goroutines that scan chunks at the same time.
	maxScanners = 8
)

// chunk is a mapping of one chunk of the memory file in this process. Its number
// is its index in a list.
type chunk struct{ addr uintptr }

// scanners returns how many goroutines go through chunks at the same time. While the
// application runs it is to have a CPU too.
func scanners(running bool) int {
	n := min(maxScanners, runtime.GOMAXPROCS(0))
	if running {
		n = max(1, n/2)
	}
	return n
}

// scanChunks returns the pages of the category in all chunks, with the flags of
// PAGEMAP_SCAN.
func scanChunks(pagemap int, chunks []chunk, workers int, flags, category uint64) (*Set, error) {
	found := pages.NewSet(uint64(len(chunks)) * chunkPages) // so that chunks can be added at once
	err := forChunks(chunks, workers, func(i int) error {
		return scanChunk(pagemap, chunks[i], uint64(i)*chunkPages, flags, category, found)
	})
	return found, err
}

// scanChunk adds what it finds in the chunk whose first page is given.
func scanChunk(pagemap int, c chunk, firstPage, flags, category uint64, found *Set) error {
	regions := make([]scanRegion, maxScanRegions)
	end := c.addr + chunkBytes
	for at := c.addr; at < end; {
		n, reached, err := pagemapScan(pagemap, at, min(at+scanBytes, end), flags, category, regions)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("scan the page map at page %d: %w", firstPage+uint64(at-c.addr)/pageSize, err)
		}
		for _, r := range regions[:n] {
			page := func(addr uint64) uint64 { return firstPage + (addr-uint64(c.addr))/pageSize }
			found.AddRange(page(r.start), page(r.end))
		}
		if reached <= at {
			return fmt.Errorf("scan the page map: no progress at page %d", firstPage+uint64(at-c.addr)/pageSize)
		}
		at = reached
	}
	return nil
}

// forChunks calls do with the index of each chunk, so many at a time.
func forChunks(chunks []chunk, workers int, do func(i int) error) error {
	errs := make([]error, len(chunks))
	slots := make(chan struct{}, workers)
	var wg sync.WaitGroup
	for i := range chunks {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
