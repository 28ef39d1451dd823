package image

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/image/sha256x16"
)

// A model is what an image must have: pages of one memory file by number.
type model map[uint64][]byte

// Random operations of several rounds, on an image and on a model, must come to the same.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 77))
			store := newStore(t)
			options := WriterOptions{Workers: 1 + r.IntN(3), PackBytes: 1 + r.Int64N(1<<20), NoSync: seed%2 == 0, packs: 1 + r.IntN(sha256x16.Streams)}
			if seed%3 == 0 {
				options.Compression = CompressionNone
			}
			var want model
			for _, name := range []string{"first", "second"} { // the second has the first as parent
				w := newWriter(t, store, options)
				want = randomRounds(t, r, w)
				commit(t, w, name)
				img, err := store.Open(context.Background(), name, OpenOptions{CacheFrames: 1 + r.IntN(4)})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = img.Close() })
				compare(t, img, want)
				options.Parent = img
			}
		})
	}
}

// modelPages is the size of the memory file of the model.
const modelPages = 2000

// randomRounds does what rounds of a checkpoint do.
func randomRounds(t *testing.T, r *rand.Rand, w *Writer) model {
	t.Helper()
	want := model{}
	memory := make([]byte, modelPages*PageBytes)
	for range 6 {
		for range 400 { // the guest writes
			page := memory[r.IntN(modelPages)*PageBytes:][:PageBytes]
			switch r.IntN(4) {
			case 0:
				clear(page)
			case 1:
				copy(page, bytes.Repeat([]byte{byte(r.IntN(20)), 1, 2, 3}, PageBytes/4)) // often equal to another
			default:
				copy(page, textLike(r, PageBytes))
			}
		}
		var runs []Run // rising, apart from each other, some of one page
		for at := uint64(r.IntN(50)); at < modelPages; {
			n := min(uint64(1+r.IntN(1<<r.IntN(9))), modelPages-at)
			runs = append(runs, Run{at, n})
			at += n + 1 + uint64(r.IntN(60))
		}
		if err := w.AddFrom(context.Background(), 0, bytes.NewReader(memory), runs); err != nil {
			t.Fatal(err)
		}
		for _, run := range runs {
			want.put(run, memory)
		}
		drop := Run{uint64(r.IntN(modelPages)), uint64(r.IntN(200))}
		if err := w.DropPages(0, drop); err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(want, func(page uint64, _ []byte) bool { return page >= drop.First && page < drop.end() })
		add := Run{uint64(r.IntN(modelPages - 300)), uint64(r.IntN(300))}
		mustAdd(t, w, 0, add.First, memory[add.First*PageBytes:][:add.Count*PageBytes])
		want.put(add, memory)
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	maps.DeleteFunc(want, func(uint64, []byte) bool { return r.IntN(10) == 0 })
	var keep []Run
	for page := range want {
		keep = append(keep, Run{page, 1})
	}
	if err := w.KeepOnly(0, keep); err != nil {
		t.Fatal(err)
	}
	return want
}

func (m model) put(run Run, memory []byte) {
	for page := run.First; page < run.end(); page++ {
		m[page] = slices.Clone(memory[page*PageBytes:][:PageBytes])
	}
}

// compare reads each page alone, all of them by Load, and some runs.
func compare(t *testing.T, img *Image, want model) {
	t.Helper()
	var committed uint64
	for _, run := range img.Runs(0) {
		committed += run.Count
	}
	if committed != uint64(len(want)) {
		t.Errorf("%d pages are committed, want %d", committed, len(want))
	}
	loaded := make([]byte, modelPages*PageBytes)
	sink := func(first uint64, data []byte) error {
		copy(loaded[first*PageBytes:], data)
		return nil
	}
	if err := img.Load(context.Background(), map[FileID]PageSink{0: sink}, LoadOptions{Workers: 2}); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, PageBytes)
	for number := range uint64(modelPages) {
		content, present := want[number]
		err := img.ReadPages(0, number, page)
		if (err == nil) != present {
			t.Errorf("page %d: %v, want it to be there: %v", number, err, present)
			continue
		}
		if !present {
			content = zeroPage[:]
		} else if !bytes.Equal(page, content) {
			t.Errorf("page %d read alone is not what was added last", number)
		}
		if !bytes.Equal(loaded[number*PageBytes:][:PageBytes], content) {
			t.Errorf("page %d loaded is not what was added last", number)
		}
	}
	for _, run := range img.Runs(0) {
		pages := make([]byte, run.Count*PageBytes)
		if err := img.ReadPages(0, run.First, pages); err != nil {
			t.Fatal(err)
		}
		for i := range run.Count {
			if !bytes.Equal(pages[i*PageBytes:][:PageBytes], want[run.First+i]) {
				t.Errorf("page %d read in a run is not what was added last", run.First+i)
			}
		}
	}
	if err := img.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}
