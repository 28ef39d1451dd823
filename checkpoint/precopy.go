package checkpoint

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// How long pre-copy into an image goes on: until a round finds no less than
// most of what the round before found, or little.
const (
	maxPrecopyRounds    = 6
	enoughPages         = 2048 // 8 MiB are compared and stored in a few milliseconds
	worthwhileShrinkage = 0.7
)

// precopy stores pages while the sandbox runs, so that its stop does not grow
// with its memory: what is stored before and has not changed is only compared
// then.
type precopy struct {
	scanner *pages.Scanner
	memory  *os.File
	writer  *image.Writer
}

func newPrecopy(memory *os.File, writer *image.Writer) *precopy {
	return &precopy{
		scanner: pages.NewScanner(pages.ScanOptions{Workers: runtime.NumCPU()}),
		memory:  memory, writer: writer,
	}
}

// run makes rounds over all of memory until another is not worth it. It
// returns how many it made.
func (p *precopy) run(ctx context.Context) (int, error) {
	last := ^uint64(0)
	for n := 1; ; n++ {
		memoryBytes, err := checkMemory(p.memory)
		if err != nil {
			return n, err
		}
		result, err := p.scanner.Round(ctx, int(p.memory.Fd()), memoryBytes, nil, p.store)
		if err != nil {
			return n, fmt.Errorf("pre-copy round %d: %w", n, err)
		}
		changed := result.Changed.Count()
		if changed <= enoughPages || n == maxPrecopyRounds || float64(changed) > worthwhileShrinkage*float64(last) {
			return n, nil
		}
		last = changed
	}
}

// finish stores those of the saved kernel's pages that changed since the last
// round. The sandbox is stopped.
func (p *precopy) finish(ctx context.Context, runs []image.Run) error {
	var end uint64
	for _, run := range runs {
		end = max(end, run.First+run.Count)
	}
	saved := pages.NewSet(end)
	for _, run := range runs {
		saved.AddRange(run.First, run.First+run.Count)
	}
	result, err := p.scanner.Round(ctx, int(p.memory.Fd()), end*image.PageBytes, saved, p.store)
	if err != nil {
		return fmt.Errorf("last round: %w", err)
	}
	// A page that the kernel counts as committed and that has become a hole
	// since is zeros now, whatever was stored of it.
	holes := saved
	committed, err := pages.Committed(int(p.memory.Fd()), end*image.PageBytes)
	if err != nil {
		return fmt.Errorf("last round: %w", err)
	}
	holes.Subtract(committed)
	holes.Union(result.Freed)
	zero := make([]byte, image.PageBytes)
	for first, last := range holes.Ranges() {
		for page := first; page < last; page++ {
			if err := p.writer.AddPages(memoryFile, page, zero); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *precopy) store(first uint64, data []byte) error {
	return p.writer.AddPages(memoryFile, first, data)
}
