package checkpoint

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
)

// TestReadEvents also has something behind the last record, which nobody waits for.
func TestReadEvents(t *testing.T) {
	paused := record(12345, 0)
	for name, c := range map[string]struct {
		stream []byte
		want   []uint64 // first page and end
		known  bool
	}{
		"nothing dirty": {slices.Concat(paused, record(0, 0)), nil, true},
		"dirty":         {slices.Concat(paused, record(page, 3*page), record(7*page, 8*page), record(0, 0), paused), []uint64{1, 3, 7, 8}, true},
		"not known":     {slices.Concat(paused, record(inside.UnknownDirty, inside.UnknownDirty), record(0, 0)), nil, false},
	} {
		calls := 0
		set, err := readEvents(bytes.NewReader(c.stream), func() { calls++ })
		if err != nil || calls != 1 || (set != nil) != c.known {
			t.Errorf("%s: set %v, error %v, stopped was called %d times", name, set, err, calls)
			continue
		}
		var got []uint64
		if set != nil {
			for start, end := range set.Ranges() {
				got = append(got, start, end)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: pages %v, want %v", name, got, c.want)
		}
	}
}

func TestReadEventsRefuses(t *testing.T) {
	paused := record(12345, 0)
	for name, stream := range map[string][]byte{
		"nothing":         nil,
		"cut":             paused[:9],
		"no last record":  slices.Concat(paused, record(page, 2*page)),
		"backwards":       slices.Concat(paused, record(2*page, page), record(0, 0)),
		"half a page":     slices.Concat(paused, record(page, page+1), record(0, 0)),
		"2^63 bytes":      slices.Concat(paused, record(page, 1<<63), record(0, 0)),
		"cut last record": slices.Concat(paused, record(0, 0)[:15]),
	} {
		if _, err := readEvents(bytes.NewReader(stream), func() {}); !errors.Is(err, ErrSandbox) {
			t.Errorf("%s: got %v, want ErrSandbox", name, err)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add(slices.Concat(record(1, 0), record(page, 2*page), record(0, 0)))
	f.Add(slices.Concat(record(1, 0), record(inside.UnknownDirty, inside.UnknownDirty)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		set, err := readEvents(bytes.NewReader(stream), func() {})
		if err != nil || set == nil {
			return
		}
		for start, end := range set.Ranges() {
			if start >= end {
				t.Fatalf("accepted pages %d to %d", start, end)
			}
		}
	})
}
