package migrate

import (
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

func TestFirsts(t *testing.T) {
	var f firsts
	a, displaces := pages.Hash{Lo: 7, Hi: 1}, pages.Hash{Lo: 7 + firstsEntries, Hi: 1}
	one, other := []byte("one"), []byte("other")
	find := func(h pages.Hash, data []byte, want uint64) {
		t.Helper()
		if page, ok := f.find(h, data); ok != (want != 0) || ok && page != want {
			t.Errorf("found %d, %v, want %d", page, ok, want)
		}
	}
	find(a, one, 0)
	find(pages.Hash{}, one, 0)
	f.note(a, 5, one)
	find(a, one, 0) // it has no tag yet
	f.note(a, 6, one)
	find(a, one, 6)
	// A page that was built to have the same hash is not the same, and takes nobody's place.
	find(a, other, 0)
	f.note(a, 8, other)
	find(a, other, 0)
	find(a, one, 6)
	find(displaces, one, 0)
	f.note(displaces, 9, one)
	find(a, one, 0)
	f.note(displaces, 10, one)
	find(displaces, one, 10)
	f.forget()
	find(displaces, one, 0)
	f.note(displaces, 11, one)
	find(displaces, one, 0)
}

// content makes pages, one a letter; '0' is a page of zeros.
func content(letters string) (data []byte, hashes []pages.Hash) {
	data = make([]byte, len(letters)*pages.PageSize)
	for i, c := range []byte(letters) {
		data[i*pages.PageSize] = c - '0'
		hashes = append(hashes, pages.HashPage(data[i*pages.PageSize:][:pages.PageSize]))
	}
	return data, hashes
}

func TestClassify(t *testing.T) {
	type step struct {
		first   uint64
		letters string
		want    []pageRun
	}
	data, zero := wire.RecordData, wire.RecordZero
	duplicate := func(count, from uint64) pageRun { return pageRun{wire.RecordDuplicate, count, from} }
	for name, steps := range map[string][]step{
		"kinds":        {{10, "AB00C", []pageRun{{data, 2, 0}, {zero, 2, 0}, {data, 1, 0}}}},
		"a run again":  {{10, "ABC", []pageRun{{data, 3, 0}}}, {20, "ABC", []pageRun{{data, 3, 0}}}, {50, "XABCA", []pageRun{{data, 1, 0}, duplicate(3, 20), duplicate(1, 20)}}},
		"one content":  {{10, "AAAAA", []pageRun{{data, 2, 0}, duplicate(1, 11), duplicate(1, 11), duplicate(1, 11)}}},
		"no overlap":   {{10, "ABABABAB", []pageRun{{data, 4, 0}, duplicate(2, 12), duplicate(2, 12)}}},
		"from above":   {{30, "ABCABC", []pageRun{{data, 6, 0}}}, {31, "ABC", []pageRun{duplicate(2, 33), duplicate(1, 35)}}},
		"zeros remain": {{10, "0A0AA", []pageRun{{zero, 1, 0}, {data, 1, 0}, {zero, 1, 0}, {data, 1, 0}, duplicate(1, 13)}}},
	} {
		l := new(lane)
		for _, s := range steps {
			pagesData, hashes := content(s.letters)
			first := s.first
			for _, want := range s.want {
				got := l.classify(first, pagesData, hashes)
				if got != want {
					t.Errorf("%s: %q at %d: %+v, want %+v", name, s.letters, first, got, want)
				}
				first, pagesData, hashes = first+got.count, pagesData[got.count*pages.PageSize:], hashes[got.count:]
			}
			if len(pagesData) > 0 {
				t.Errorf("%s: %d bytes are left", name, len(pagesData))
			}
		}
	}
	// Without hashes nothing is compared.
	l := new(lane)
	pagesData, _ := content("AA")
	if got := l.classify(3, pagesData, nil); got != (pageRun{data, 2, 0}) {
		t.Errorf("without hashes: %+v", got)
	}
}
