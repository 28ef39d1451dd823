package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

const page = image.PageBytes

// record is one page range as a sandbox sends it.
func record(start, end uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, start)
	return binary.LittleEndian.AppendUint64(b, end)
}

func TestReadRanges(t *testing.T) {
	inline := bytes.Repeat([]byte{7}, 2*page)
	stream := slices.Concat(
		record(0, 2*page), inline,
		record(inside.InlineBytes, inside.InlineBytes+page),
		record(inside.InlineBytes+page, inside.InlineBytes+4*page), // a neighbour
		record(inside.InlineBytes+8*page, inside.InlineBytes+9*page),
		record(0, 0), []byte("and nothing behind that is looked at"),
	)
	list, err := readRanges(bytes.NewReader(stream), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	first := uint64(inside.InlineBytes / page)
	if want := []image.Run{{First: first, Count: 4}, {First: first + 8, Count: 1}}; !slices.Equal(list.runs, want) {
		t.Errorf("runs are %v, want %v", list.runs, want)
	}
	if len(list.inline) != 1 || list.inline[0].run != (image.Run{First: 0, Count: 2}) || !bytes.Equal(list.inline[0].data, inline) {
		t.Errorf("inline pages are %v", list.inline)
	}
	if want := []image.Run{{First: 0, Count: 2}, {First: first, Count: 4}, {First: first + 8, Count: 1}}; !slices.Equal(list.all(), want) {
		t.Errorf("all pages are %v, want %v", list.all(), want)
	}
}

func TestReadRangesRefuses(t *testing.T) {
	const memory = 1 << 20
	for name, stream := range map[string][]byte{
		"empty range":              record(inside.InlineBytes, inside.InlineBytes),
		"backwards":                record(inside.InlineBytes+page, inside.InlineBytes),
		"behind the end":           record(memory, memory+page),
		"across the end":           record(memory-page, memory+page),
		"2^63 bytes":               record(inside.InlineBytes, 1<<63),
		"half a page":              record(inside.InlineBytes, inside.InlineBytes+page/2),
		"not on a page":            record(inside.InlineBytes+1, inside.InlineBytes+1+page),
		"no last record":           record(inside.InlineBytes, inside.InlineBytes+page),
		"nothing":                  nil,
		"cut record":               record(inside.InlineBytes, inside.InlineBytes+page)[:9],
		"cut inline pages":         append(record(0, page), make([]byte, page-1)...),
		"across the inline border": append(record(inside.InlineBytes-page, inside.InlineBytes+page), make([]byte, 2*page)...),
	} {
		if _, err := readRanges(bytes.NewReader(stream), memory); !errors.Is(err, ErrSandbox) {
			t.Errorf("%s: got %v, want ErrSandbox", name, err)
		}
	}
}

func FuzzReadRanges(f *testing.F) {
	f.Add(append(record(inside.InlineBytes, inside.InlineBytes+page), record(0, 0)...))
	f.Add(slices.Concat(record(0, page), make([]byte, page), record(0, 0)))
	f.Add(record(0, 1<<62))
	f.Fuzz(func(t *testing.T, stream []byte) {
		const memory = 1 << 30
		list, err := readRanges(bytes.NewReader(stream), memory)
		if err != nil {
			return
		}
		for _, run := range list.all() {
			if run.Count == 0 || (run.First+run.Count)*page > memory {
				t.Fatalf("accepted %v, which is not inside the memory file", run)
			}
		}
	})
}
