package checkpoint

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// maxRanges bounds the page ranges of one save: 64 GiB of single pages.
const maxRanges = 16 << 20

// pageList is the pages of a saved kernel.
type pageList struct {
	// runs are in memory, to be read there; neighbours are joined.
	runs []image.Run
	// inline are pages that came with their content.
	inline []inlinePages
}

// inlinePages are pages whose content in memory is not the saved one any more.
type inlinePages struct {
	run  image.Run
	data []byte
}

// all returns the runs of all pages.
func (l *pageList) all() []image.Run {
	var runs []image.Run
	for _, p := range l.inline {
		runs = append(runs, p.run)
	}
	return append(runs, l.runs...)
}

// readRanges reads the pages of a saved kernel up to the last record, see
// inside.RangeBytes. memoryBytes is the size of the memory file; a range that is
// not of whole pages inside it is an error.
func readRanges(r io.Reader, memoryBytes uint64) (*pageList, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	list := &pageList{}
	for n := 0; ; n++ {
		var b [inside.RangeBytes]byte
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return nil, fmt.Errorf("%w: read page ranges, the last of which did not come: %w", ErrSandbox, err)
		}
		if b == ([inside.RangeBytes]byte{}) {
			return list, nil
		}
		if n == maxRanges {
			return nil, fmt.Errorf("%w: it names more than %d page ranges", ErrSandbox, maxRanges)
		}
		run, err := parseRange(b[:], memoryBytes)
		if err != nil {
			return nil, err
		}
		if run.First*image.PageBytes < inside.InlineBytes {
			err = list.addInline(run, in)
		} else {
			list.add(run)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (l *pageList) add(run image.Run) {
	if last := len(l.runs) - 1; last >= 0 && l.runs[last].First+l.runs[last].Count == run.First {
		l.runs[last].Count += run.Count
		return
	}
	l.runs = append(l.runs, run)
}

func (l *pageList) addInline(run image.Run, in io.Reader) error {
	if n := len(l.inline); n > 0 && run.First < l.inline[n-1].run.First+l.inline[n-1].run.Count {
		return fmt.Errorf("%w: inline pages from %d come a second time", ErrSandbox, run.First)
	}
	if (run.First+run.Count)*image.PageBytes > inside.InlineBytes {
		return fmt.Errorf("%w: page range of %d pages from %d lies across %d bytes", ErrSandbox, run.Count, run.First, inside.InlineBytes)
	}
	data := make([]byte, run.Count*image.PageBytes)
	if _, err := io.ReadFull(in, data); err != nil {
		return fmt.Errorf("%w: read inline pages: %w", ErrSandbox, err)
	}
	l.inline = append(l.inline, inlinePages{run, data})
	return nil
}

// parseRange reads one range of inside.RangeBytes bytes.
func parseRange(b []byte, memoryBytes uint64) (image.Run, error) {
	start, end := binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])
	if start >= end || end > memoryBytes || start%image.PageBytes != 0 || end%image.PageBytes != 0 {
		return image.Run{}, fmt.Errorf("%w: it names page range %#x-%#x, want whole pages below %#x", ErrSandbox, start, end, memoryBytes)
	}
	return image.Run{First: start / image.PageBytes, Count: (end - start) / image.PageBytes}, nil
}
