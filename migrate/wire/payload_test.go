package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

func TestPageBatchRoundTrip(t *testing.T) {
	var batch PageBatch
	for range 2 { // the second time on reused memory
		batch.Reset()
		data := batch.Data(7, 2)
		if len(data) != 2*PageBytes {
			t.Fatalf("Data gave %d bytes", len(data))
		}
		for i := range data {
			data[i] = byte(i / 3)
		}
		batch.Zero(100, 1<<20)
		batch.Duplicate(9, 2, 7)
		records, err := ParsePages(nil, batch.Payload(), MaxFilePages)
		if err != nil {
			t.Fatal(err)
		}
		want := []PageRecord{
			{Kind: RecordData, Page: 7, Count: 2, Data: data},
			{Kind: RecordZero, Page: 100, Count: 1 << 20},
			{Kind: RecordDuplicate, Page: 9, Count: 2, From: 7},
		}
		if !slices.EqualFunc(records, want, equalRecords) {
			t.Fatalf("got %v", records)
		}
	}
}

func equalRecords(a, b PageRecord) bool {
	return a.Kind == b.Kind && a.Page == b.Page && a.Count == b.Count && a.From == b.From && bytes.Equal(a.Data, b.Data)
}

func TestPageBatchStopsWhenFull(t *testing.T) {
	var batch PageBatch
	pages := uint64(0)
	for batch.Data(pages*2, 1) != nil {
		pages++
	}
	if pages < MaxBatchPages {
		t.Fatalf("full after %d single pages", pages)
	}
	for batch.Zero(0, 1) {
	}
	if batch.Duplicate(0, 1, 1) || batch.Zero(0, 1) || len(batch.Payload()) > MaxPayloadBytes {
		t.Fatal("grew beyond its bound")
	}
	batch.Reset()
	if batch.Room() < MaxBatchPages || batch.Data(0, batch.Room()+1) != nil {
		t.Fatal("room is wrong after a reset")
	}
}

// record makes a page record that may say anything.
func record(kind RecordKind, count uint32, page uint64, rest ...byte) []byte {
	b := []byte{byte(kind), 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, count)
	b = binary.LittleEndian.AppendUint64(b, page)
	return append(b, rest...)
}

func TestPageRecordClaims(t *testing.T) {
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for _, test := range []struct {
		name    string
		payload []byte
		want    error
	}{
		{"nothing", nil, ErrPayload},
		{"cut off", record(RecordZero, 1, 0)[:15], ErrPayload},
		{"no page", record(RecordZero, 0, 0), ErrLength},
		{"page 2^60", record(RecordZero, 1, 1<<60), ErrLength},
		{"last page there is", record(RecordZero, 1, 1<<64-1), ErrLength},
		{"one page beyond the file", record(RecordZero, 2, 999), ErrLength},
		{"more data than there is", record(RecordData, 2, 0, make([]byte, PageBytes)...), ErrLength},
		{"2^32 pages of data", record(RecordData, 1<<32-1, 0), ErrLength},
		{"flags", append([]byte{2, 1}, record(RecordZero, 1, 0)[2:]...), ErrPayload},
		{"kind 9", record(9, 1, 0), ErrType},
		{"duplicate cut off", record(RecordDuplicate, 1, 0, 1), ErrPayload},
		{"duplicate of 2^60", record(RecordDuplicate, 1, 0, u64(1<<60)...), ErrLength},
		{"duplicate of itself", record(RecordDuplicate, 2, 4, u64(5)...), ErrPayload},
	} {
		t.Run(test.name, func(t *testing.T) {
			// A good record first: nothing of the frame may pass.
			payload := append(record(RecordZero, 1, 0), test.payload...)
			if test.payload == nil {
				payload = nil
			}
			records, err := ParsePages(nil, payload, 1000)
			if !errors.Is(err, test.want) || len(records) != 0 {
				t.Fatalf("got %d records, %v; want %v", len(records), err, test.want)
			}
		})
	}
}

func TestRangesKeepTheirOrderAcrossFrames(t *testing.T) {
	list, err := ParseRanges(nil, AppendRanges(nil, []Range{{0, 5}, {5, 1}}), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = ParseRanges(list, AppendRanges(nil, []Range{{6, 1}}), 1000); err != nil || len(list) != 3 {
		t.Fatal(list, err)
	}
	again, err := ParseRanges(list, AppendRanges(nil, []Range{{6, 1}}), 1000)
	if !errors.Is(err, ErrPayload) || len(again) != 3 {
		t.Fatalf("a range sent twice: %v, %v", again, err)
	}
}

func TestRangeClaims(t *testing.T) {
	for _, ranges := range [][]Range{
		{{0, 0}}, {{0, 1 << 60}}, {{1 << 60, 1}}, {{1<<64 - 1, 1}}, {{1, 1<<64 - 1}}, {{999, 2}},
	} {
		for name, parse := range map[string]func([]Range, []byte, uint64) ([]Range, error){"list": ParseRanges, "request": ParseRequest} {
			if got, err := parse(nil, AppendRanges(nil, ranges), 1000); !errors.Is(err, ErrLength) || len(got) != 0 {
				t.Errorf("%s of %v: %v, %v", name, ranges, got, err)
			}
		}
	}
	if _, err := ParseRanges(nil, make([]byte, 17), 1000); !errors.Is(err, ErrLength) {
		t.Error(err)
	}
	many := make([]Range, MaxFrameRanges+1)
	for i := range many {
		many[i] = Range{uint64(i), 1}
	}
	if _, err := ParseRanges(nil, AppendRanges(nil, many), MaxFilePages); !errors.Is(err, ErrLength) {
		t.Error(err)
	}
}

func TestPageSumIgnoresOrderAndSeesPlace(t *testing.T) {
	a, b := DigestOf([]byte("a")), DigestOf([]byte("b"))
	var x, y, swapped PageSum
	x.Add(0, 1, a)
	x.Add(0, 2, b)
	y.Add(0, 2, a)
	y.Add(0, 2, b)
	y.Add(0, 1, a)
	y.Remove(0, 2, a)
	if x.Digest() != y.Digest() {
		t.Fatal("the order of pages matters")
	}
	swapped.Add(0, 1, b)
	swapped.Add(0, 2, a)
	if x.Digest() == swapped.Digest() {
		t.Fatal("two pages that changed places are not seen")
	}
	x.Remove(0, 1, a)
	x.Remove(0, 2, b)
	if x != (PageSum{}) {
		t.Fatal("removing everything leaves something")
	}
}

func TestEndAndBarrier(t *testing.T) {
	want := End{TypeCommitted, 1 << 60}
	if got, err := ParseEnd(AppendEnd(nil, want)); err != nil || got != want {
		t.Fatal(got, err)
	}
	for _, b := range [][]byte{nil, make([]byte, 16), AppendEnd(nil, End{TypePages, 1}), append([]byte{3, 1}, make([]byte, 14)...)} {
		if _, err := ParseEnd(b); !errors.Is(err, ErrPayload) {
			t.Errorf("%v: %v", b, err)
		}
	}
	if n, err := ParseBarrier(AppendBarrier(nil, 9)); n != 9 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := ParseBarrier([]byte{1}); !errors.Is(err, ErrPayload) {
		t.Fatal(err)
	}
}

// checkPages fails where ParsePages lets something pass that a receiver could not place.
func checkPages(t *testing.T, payload []byte, filePages uint64) {
	records, err := ParsePages(nil, payload, filePages)
	if err != nil {
		return
	}
	for _, r := range records {
		if r.Count == 0 || r.Page+r.Count > filePages || r.Page+r.Count < r.Page {
			t.Fatalf("record outside the file: %+v", r)
		}
		if r.Kind == RecordData && uint64(len(r.Data)) != r.Count*PageBytes {
			t.Fatalf("record of %d pages has %d bytes", r.Count, len(r.Data))
		}
		if r.Kind == RecordDuplicate && (r.From+r.Count > filePages || r.From+r.Count < r.From) {
			t.Fatalf("duplicate outside the file: %+v", r)
		}
	}
}

func checkRanges(t *testing.T, payload []byte, filePages uint64) {
	ranges, err := ParseRanges(nil, payload, filePages)
	if err != nil {
		return
	}
	for i, r := range ranges {
		if r.Count == 0 || r.End() > filePages || r.End() < r.Page || i > 0 && r.Page < ranges[i-1].End() {
			t.Fatalf("ranges %v", ranges)
		}
	}
	if !bytes.Equal(AppendRanges(nil, ranges), payload) {
		t.Fatal("ranges do not encode to what they came from")
	}
}

func FuzzParsePages(f *testing.F) {
	var batch PageBatch
	copy(batch.Data(1, 1), "page")
	batch.Zero(5, 5)
	batch.Duplicate(9, 1, 1)
	f.Add(bytes.Clone(batch.Payload()))
	f.Add(record(RecordData, 1<<32-1, 1<<60))
	f.Fuzz(func(t *testing.T, b []byte) { checkPages(t, b, 1<<20) })
}

func FuzzParseRanges(f *testing.F) {
	f.Add(AppendRanges(nil, []Range{{1, 1}, {2, 1 << 60}}))
	f.Add(AppendRanges(nil, []Range{{1, 1}, {2, 5}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkRanges(t, b, 1<<20)
		ParseEnd(b)
	})
}

// Pages with content still fit behind pages without.
func TestBatchBeginsWithZeros(t *testing.T) {
	var b PageBatch
	b.Zero(0, 5)
	room := b.Room()
	if room < MaxBatchPages {
		t.Fatalf("room for %d pages, want at least %d", room, MaxBatchPages)
	}
	if data := b.Data(5, room); len(data) != int(room)*PageBytes {
		t.Fatalf("got %d bytes for %d pages", len(data), room)
	}
	if records, err := ParsePages(nil, b.Payload(), MaxFilePages); err != nil || len(records) != 2 {
		t.Fatalf("%d records: %v", len(records), err)
	}
}
