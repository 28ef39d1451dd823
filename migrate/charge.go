package migrate

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// charger has memory allocated, by the sandbox that it is for, before pages are placed there by this process, whose cgroup is
// another. A nil charger does nothing.
type charger struct {
	allocate func([]image.Run) error

	mu sync.Mutex
	// has are the pages that have memory. Guarded by mu.
	has pages.Set
}

// newCharger returns a charger, or nil where there is nothing to do. allocate takes at most inside.MaxChargeRanges ranges.
func newCharger(charges bool, allocate func([]image.Run) error) *charger {
	if !charges {
		return nil
	}
	return &charger{allocate: allocate}
}

// place has memory allocated for the pages of some records that lack it.
func (c *charger) place(records []wire.PageRecord) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var runs []image.Run
	for _, r := range records {
		if r.Kind == wire.RecordZero {
			continue
		}
		for page := r.Page; page < r.End(); page++ {
			if c.has.Has(page) {
				continue
			}
			if last := len(runs) - 1; last >= 0 && runs[last].First+runs[last].Count == page {
				runs[last].Count++
			} else {
				runs = append(runs, image.Run{First: page, Count: 1})
			}
		}
	}
	for len(runs) > 0 {
		n := min(len(runs), inside.MaxChargeRanges)
		if err := c.allocate(runs[:n]); err != nil {
			return err
		}
		for _, r := range runs[:n] {
			c.has.AddRange(r.First, r.First+r.Count)
		}
		runs = runs[n:]
	}
	return nil
}

// punched notes that pages have no memory any more. Nobody places pages there meanwhile.
func (c *charger) punched(start, end uint64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.has.RemoveRange(start, end)
}

// allocatedBytes returns what a file takes, its holes left out.
func allocatedBytes(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("size of sandbox memory: %w", err)
	}
	return uint64(st.Blocks) * 512, nil
}
