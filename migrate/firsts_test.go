package migrate

import (
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

func TestFirsts(t *testing.T) {
	var f firsts
	a, displaces := pages.Hash{Lo: 7, Hi: 1}, pages.Hash{Lo: 7 + firstsEntries, Hi: 1}
	if _, ok := f.find(a); ok {
		t.Error("found before it was noted")
	}
	if _, ok := f.find(pages.Hash{}); ok {
		t.Error("the zero hash is found in an empty one")
	}
	f.note(a, 5)
	if page, ok := f.find(a); !ok || page != 5 {
		t.Errorf("found %d, %v", page, ok)
	}
	if _, ok := f.find(displaces); ok {
		t.Error("another content is found")
	}
	f.note(displaces, 6)
	if _, ok := f.find(a); ok {
		t.Error("found after it was displaced")
	}
	f.forget()
	if _, ok := f.find(displaces); ok {
		t.Error("found behind a barrier")
	}
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
		"a run again":  {{10, "ABC", []pageRun{{data, 3, 0}}}, {50, "XABCA", []pageRun{{data, 1, 0}, duplicate(3, 10), duplicate(1, 10)}}},
		"one content":  {{10, "AAAA", []pageRun{{data, 1, 0}, duplicate(1, 10), duplicate(1, 10), duplicate(1, 10)}}},
		"no overlap":   {{10, "ABABAB", []pageRun{{data, 2, 0}, duplicate(2, 10), duplicate(2, 10)}}},
		"from above":   {{20, "ABC", []pageRun{{data, 3, 0}}}, {18, "ABC", []pageRun{duplicate(2, 20), duplicate(1, 22)}}},
		"zeros remain": {{10, "0A0A", []pageRun{{zero, 1, 0}, {data, 1, 0}, {zero, 1, 0}, duplicate(1, 11)}}},
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
