package inside

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
)

// TestInlinePages writes ranges whose mappings are cut elsewhere than the
// ranges are, and reads back what the pager would.
func TestInlinePages(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	received := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(r)
		received <- data
	}()
	const pageBytes = 4096
	ranges := []memmap.FileRange{
		{Start: 0, End: 2 * pageBytes},
		{Start: InlineBytes - pageBytes, End: InlineBytes + 3*pageBytes},
		{Start: 4 * pageBytes, End: 5 * pageBytes},
	}
	content := make([]byte, 7*pageBytes)
	for i := range content {
		content[i] = byte(i / pageBytes)
	}
	mappings := []unix.Iovec{
		{Base: &content[0], Len: pageBytes},
		{Base: &content[pageBytes], Len: 4 * pageBytes},
		{Base: &content[5*pageBytes], Len: 2 * pageBytes},
	}
	writer := newReferenceWriter(w)
	writer.AddWritev(0, uint64(len(content)), nil, ranges, mappings)
	if err := writer.Finalize(); err != nil {
		t.Fatal(err)
	}
	writer.Close()

	var want []byte
	add := func(start, end uint64, inline ...byte) {
		want = binary.LittleEndian.AppendUint64(want, start)
		want = binary.LittleEndian.AppendUint64(want, end)
		for _, n := range inline {
			want = append(want, bytes.Repeat([]byte{n}, pageBytes)...)
		}
	}
	add(0, 2*pageBytes, 0, 1)
	add(InlineBytes-pageBytes, InlineBytes, 2)
	add(InlineBytes, InlineBytes+3*pageBytes)
	add(4*pageBytes, 5*pageBytes, 6)
	add(0, 0)
	if got := <-received; !bytes.Equal(got, want) {
		t.Errorf("%d bytes were written that differ from the %d wanted", len(got), len(want))
	}
	cs, err := writer.Wait(nil, 1)
	if err != nil || len(cs) != 1 || cs[0].N != uint64(len(content)) {
		t.Errorf("completions are %v, %v", cs, err)
	}
}
