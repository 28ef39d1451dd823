package image

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smallIndex is an index with two packs, both codecs, zero runs, duplicates and two files.
func smallIndex() *pageIndex {
	x := &pageIndex{}
	x.addPack(indexPack{digest: [32]byte{1}, key: tagKey{7}, sizeBytes: 16*PageBytes + 1000}, []frame{
		{stored: 16 * PageBytes, pages: 16, tag: Tag{1, 0xff}},
		{stored: 1000, pages: 10, codec: codecZstd, tag: Tag{2, 0xff}},
	})
	x.addPack(indexPack{digest: [32]byte{2}, key: tagKey{8}, sizeBytes: 14 * PageBytes}, []frame{{stored: 14 * PageBytes, pages: 14, tag: Tag{3, 0xff}}})
	x.files = []indexFile{
		{id: 0, runs: []indexRun{{Run{0, 20}, 0}, {Run{20, 5}, zeroOrdinal}, {Run{25, 3}, 2}, {Run{1 << 20, 12}, 28}}},
		{id: 9, runs: []indexRun{{Run{MaxFilePages - 40, 40}, 0}}},
	}
	return x
}

func TestPageIndexRoundTrip(t *testing.T) {
	want := smallIndex()
	data, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodePageIndex("page index", data)
	if err != nil {
		t.Fatal(err)
	}
	options := cmp.AllowUnexported(pageIndex{}, indexPack{}, frame{}, indexFile{}, indexRun{})
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Errorf("decoded index differs (-want +got):\n%s", diff)
	}
}

// Each rule of the format has an index that breaks it.
func TestPageIndexRules(t *testing.T) {
	for name, test := range map[string]struct {
		change func(x *pageIndex)
		want   string
	}{
		"pack twice":             {func(x *pageIndex) { x.packs[1].digest = x.packs[0].digest }, "listed twice"},
		"pack size":              {func(x *pageIndex) { x.packs[0].sizeBytes++ }, "bytes instead of"},
		"pack too large":         {func(x *pageIndex) { x.packs[0].sizeBytes = MaxPackBytes + 1 }, "impossible size"},
		"pack without frames":    {func(x *pageIndex) { x.packs[0].frames = 0 }, "impossible size"},
		"pack with too many":     {func(x *pageIndex) { x.packs[0].frames = 4 }, "impossible size"},
		"frames without a pack":  {func(x *pageIndex) { x.packs[1].frames, x.packs[0].frames = 1, 1 }, "frames instead of"},
		"raw frame cut":          {func(x *pageIndex) { x.frames[0].stored-- }, "frame 0 is impossible"},
		"zstd frame empty":       {func(x *pageIndex) { x.frames[1].stored = 0 }, "frame 1 is impossible"},
		"zstd frame not smaller": {func(x *pageIndex) { x.frames[1].stored = 10 * PageBytes }, "frame 1 is impossible"},
		"unknown codec":          {func(x *pageIndex) { x.frames[1].codec = 2 }, "frame 1 is impossible"},
		"unused bit":             {func(x *pageIndex) { x.frames[0].stored |= 1 << 20 }, "frame 0 is impossible"},
		"a page too many":        {func(x *pageIndex) { x.pages++ }, "pages instead of"},
		"files out of order":     {func(x *pageIndex) { x.files[0].id = 9 }, "wrong order"},
		"file without runs":      {func(x *pageIndex) { x.files[1].runs = nil }, "wrong order or number"},
		"empty run":              {func(x *pageIndex) { x.files[0].runs[2].Count = 0 }, "outside"},
		"run beyond the end":     {func(x *pageIndex) { x.files[1].runs[0].First++ }, "outside"},
		"run overflows":          {func(x *pageIndex) { x.files[1].runs[0].Count = ^uint64(0) }, "outside"},
		"page not stored":        {func(x *pageIndex) { x.files[0].runs[3].ordinal++ }, "not stored"},
		"ordinal overflows":      {func(x *pageIndex) { x.files[0].runs[3].ordinal = zeroOrdinal - 2 }, "not stored"},
		"runs overlap":           {func(x *pageIndex) { x.files[0].runs[1].First-- }, "out of order"},
		"runs to be joined":      {func(x *pageIndex) { x.files[0].runs[1].ordinal = 20 }, "out of order"},
		"pack not used": {func(x *pageIndex) {
			x.files[0].runs = x.files[0].runs[:3]
			x.files[1].runs[0].Count = 26
		}, "pack 1 has no page"},
	} {
		x := smallIndex()
		test.change(x)
		data, err := x.encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := decodePageIndex("page index", data); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want ErrDamaged with %q", name, err, test.want)
		}
	}
}

func TestPageIndexVersion(t *testing.T) {
	data, err := smallIndex().encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{8, 12} { // version, page size
		changed := slices.Clone(data)
		changed[at]++
		if _, err := decodePageIndex("page index", changed); !errors.Is(err, ErrSchema) {
			t.Errorf("byte %d changed: %v, want ErrSchema", at, err)
		}
	}
}

func TestPageTable(t *testing.T) {
	table := newPageTable()
	some := make([]location, 3*leafPages)
	for i := range some {
		some[i] = makeLocation(1, uint32(i))
	}
	table.set(leafPages-10, some)
	table.drop(Run{leafPages, 2 * leafPages})
	table.drop(Run{leafPages - 10, 3})
	table.drop(Run{MaxFilePages - 1, 1})
	var pages []uint64
	table.each(func(page uint64, at location) {
		if at.pack() != 1 || uint64(at.page()) != page-leafPages+10 {
			t.Errorf("page %d is at %d.%d", page, at.pack(), at.page())
		}
		pages = append(pages, page)
	})
	if len(pages) != 7+leafPages-10 || pages[0] != leafPages-7 || pages[7] != 3*leafPages || !slices.IsSorted(pages) {
		t.Errorf("table has %d pages from %d and %d on", len(pages), pages[0], pages[7])
	}
	if missing, complete := table.keep([]Run{{leafPages - 7, 7}, {3 * leafPages, 10}}); !complete {
		t.Errorf("page %d is said to be missing", missing)
	}
	if missing, complete := table.keep([]Run{{leafPages - 5, 6}}); complete || missing != leafPages {
		t.Errorf("keep of a missing page: %d, %v", missing, complete)
	}
}

// The sample of docs/image-format.md.
func TestDocumentedSample(t *testing.T) {
	x := &pageIndex{}
	x.addPack(indexPack{digest: [32]byte{0xdd}, key: tagKey{0xbb}, sizeBytes: 20}, []frame{{stored: 20, pages: 1, codec: codecZstd, tag: Tag{0xee}}})
	x.files = []indexFile{{id: 0, runs: []indexRun{{Run{0, 1}, zeroOrdinal}, {Run{1, 1}, 0}}}}
	data, err := x.encode()
	if err != nil {
		t.Fatal(err)
	}
	want := "53425850474944580100000000100000" + "01000000010000000100000000000000" + "01000000000000000200000000000000" +
		"dd00000000000000000000000000000000000000000000000000000000000000" + "bb000000000000000000000000000000" + "14000000000000000100000000000000" +
		"14000010" + "ee000000000000000000000000000000" + "0000000002000000" +
		"00000000000000000100000000000000ffffffffffffffff" + "010000000000000001000000000000000000000000000000"
	if got := hex.EncodeToString(data); got != want {
		t.Errorf("index is\n%s, want\n%s", got, want)
	}
}
