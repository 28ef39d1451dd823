package checkpoint

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// maxRanges bounds the page ranges of one save: 64 GiB of single pages.
const maxRanges = 16 << 20

// readRanges reads the page ranges of a saved kernel until the end of r, in
// the order in which they come, neighbours joined. memoryBytes is the size of
// the memory file; a range that is not of whole pages inside it is an error.
func readRanges(r io.Reader, memoryBytes uint64) ([]image.Run, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var runs []image.Run
	for n := 0; ; n++ {
		var b [inside.RangeBytes]byte
		_, err := io.ReadFull(in, b[:])
		if errors.Is(err, io.EOF) {
			return runs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: read page ranges: %w", ErrSandbox, err)
		}
		if n == maxRanges {
			return nil, fmt.Errorf("%w: it names more than %d page ranges", ErrSandbox, maxRanges)
		}
		run, err := parseRange(b[:], memoryBytes)
		if err != nil {
			return nil, err
		}
		if last := len(runs) - 1; last >= 0 && runs[last].First+runs[last].Count == run.First {
			runs[last].Count += run.Count
			continue
		}
		runs = append(runs, run)
	}
}

// parseRange reads one range of inside.RangeBytes bytes.
func parseRange(b []byte, memoryBytes uint64) (image.Run, error) {
	start, end := binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])
	if start >= end || end > memoryBytes || start%image.PageBytes != 0 || end%image.PageBytes != 0 {
		return image.Run{}, fmt.Errorf("%w: it names page range %#x-%#x, want whole pages below %#x", ErrSandbox, start, end, memoryBytes)
	}
	return image.Run{First: start / image.PageBytes, Count: (end - start) / image.PageBytes}, nil
}
