package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// contents is all that an image gives to those who read it.
type contents struct {
	Config *Config
	Runs   map[FileID][]PageRun
	Pages  map[FileID][]byte // committed pages, one after the other
	Loaded map[FileID][]byte // the same, by Load
	States map[string][]byte
}

// readAll reads an image in every way there is, up to the first error. What it has by then was given without one.
func readAll(store *Store, name string) (*contents, error) {
	img, err := store.Open(context.Background(), name, OpenOptions{})
	if err != nil {
		return nil, err
	}
	defer img.Close()
	c := &contents{Config: img.Config(), Runs: map[FileID][]PageRun{}, Pages: map[FileID][]byte{}, Loaded: map[FileID][]byte{}, States: map[string][]byte{}}
	for _, file := range img.Files() {
		c.Runs[file] = img.Runs(file)
	}
	// Each way of reading is to notice damage itself, so that it does not count what the others notice.
	return c, errors.Join(c.readStates(img), c.readPages(img), c.load(img), img.Verify(context.Background()))
}

func (c *contents) readStates(img *Image) error {
	for _, state := range img.Config().States {
		r, err := img.OpenState(state.Kind)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			return err
		}
		c.States[state.Kind] = data
	}
	return nil
}

func (c *contents) readPages(img *Image) error {
	for file, runs := range c.Runs {
		var all []byte
		for _, run := range runs {
			pages := make([]byte, run.Count*PageBytes)
			if err := img.ReadPages(file, run.First, pages); err != nil {
				return err
			}
			all = append(all, pages...)
		}
		c.Pages[file] = all
	}
	return nil
}

func (c *contents) load(img *Image) error {
	loaded, sinks := map[FileID][]byte{}, map[FileID]PageSink{}
	for file, runs := range c.Runs {
		place := map[uint64]int{} // page → offset in what is loaded
		for _, run := range runs {
			for i := range run.Count {
				place[run.First+i] = len(place) * PageBytes
			}
		}
		all := make([]byte, len(place)*PageBytes)
		loaded[file] = all
		sinks[file] = func(first uint64, data []byte) error {
			for i := 0; i < len(data); i += PageBytes {
				copy(all[place[first+uint64(i/PageBytes)]:], data[i:i+PageBytes])
			}
			return nil
		}
	}
	if err := img.Load(context.Background(), sinks, LoadOptions{Workers: 1}); err != nil {
		return err
	}
	c.Loaded = loaded
	return nil
}

// agrees says whether everything in c is so in want too; parts may be missing.
func (c *contents) agrees(want *contents) bool {
	same := func(file FileID, data []byte, in map[FileID][]byte) bool { return bytes.Equal(data, in[file]) }
	for file, data := range c.Pages {
		if !same(file, data, want.Pages) {
			return false
		}
	}
	for file, data := range c.Loaded {
		if !same(file, data, want.Loaded) {
			return false
		}
	}
	for kind, data := range c.States {
		if !bytes.Equal(data, want.States[kind]) {
			return false
		}
	}
	return cmp.Equal(c.Config, want.Config) && cmp.Equal(c.Runs, want.Runs)
}

// smallImage writes an image with all that the format has, in a few KiB: raw and compressed frames, zeros, duplicates, two packs, two
// memory files, two states.
func smallImage(tb testing.TB) *Store {
	store := newStore(tb)
	w := newWriter(tb, store, WriterOptions{Workers: 1, packs: 2})
	var text []byte
	for page := range 64 + 13 {
		line := fmt.Sprintf("page %d of a small image\n", page)
		text = append(text, strings.Repeat(line, PageBytes/len(line)+1)[:PageBytes]...)
	}
	mustAdd(tb, w, 0, 10, slices.Concat(text[:63*PageBytes], randomPages(1, 1)))
	mustAdd(tb, w, 0, 100, slices.Concat(make([]byte, 2*PageBytes), randomPages(2, 2), text[:3*PageBytes]))
	mustAdd(tb, w, 7, 0, bytes.Repeat([]byte("page"), 2*PageBytes/4))
	mustAdd(tb, w, 7, 50, slices.Concat(text[64*PageBytes:], randomPages(4, 1))) // the last frame is a random page
	for kind, data := range map[string][]byte{"kernel": text[:3000], "memory": randomPages(3, 1)[:500]} {
		s, err := w.StateWriter(kind)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := s.Write(data); err != nil {
			tb.Fatal(err)
		}
		if err := s.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	commit(tb, w, "latest")
	return store
}

// A damager changes one file of an image and puts it back.
type damager struct {
	t     *testing.T
	store *Store
	want  *contents
}

// try writes what a file is to have, reads the image, and restores it. The file must be missed: an error with a code, and the
// file's name in it if it has one. Only what other tools may write too can be changed without a difference.
func (d *damager) try(name, what string, original, changed []byte) {
	d.t.Helper()
	path := filepath.Join(d.store.Dir(), name)
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		d.t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(path, original, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}()
	var got *contents
	store, err := OpenStore(d.store.Dir())
	if err == nil {
		got, err = readAll(store, "latest")
	}
	blob := strings.HasPrefix(name, blobsDir)
	if got != nil && !got.agrees(d.want) {
		d.t.Errorf("%s %s: gave something else, %v", name, what, err)
	}
	var ours *Error
	switch {
	case err == nil && blob:
		d.t.Errorf("%s %s: was not noticed", name, what)
	case err == nil:
		if diff := cmp.Diff(d.want, got); diff != "" {
			d.t.Errorf("%s %s: gave something else without an error", name, what)
		}
	case !errors.As(err, &ours):
		d.t.Errorf("%s %s: error without a code: %v", name, what, err)
	case blob && !strings.Contains(err.Error(), filepath.Base(name)):
		d.t.Errorf("%s %s: error does not name the blob: %v", name, what, err)
	case blob && !errors.Is(err, ErrDamaged):
		d.t.Errorf("%s %s: %v, want ErrDamaged", name, what, err)
	}
}

func newDamager(t *testing.T) (*damager, map[string][]byte) {
	t.Helper()
	store := smallImage(t)
	want, err := readAll(store, "latest")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range filesIn(t, store.Dir()) {
		data, err := os.ReadFile(filepath.Join(store.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	if len(files) != 9 { // oci-layout, index.json, manifest, config, index, two packs, two states
		t.Fatalf("the image has %d files: %v", len(files), filesIn(t, store.Dir()))
	}
	return &damager{t, store, want}, files
}

// boundaries returns the offsets in a file at which something begins, and those beside them.
func boundaries(img *Image, name string, size int) []int {
	at := []int{0, size / 2, size}
	base := filepath.Base(name)
	switch base {
	case img.manifest.index.Digest.Encoded():
		x := img.index
		at = append(at, 8, 12, 16, 20, 24, 32, 40, indexHeaderBytes)
		section := indexHeaderBytes
		for _, bytes := range []int{len(x.packs) * indexPackBytes, len(x.frames) * indexFrameBytes, len(x.frames) * tagBytes, len(x.files) * indexFileBytes} {
			section += bytes
			at = append(at, section)
		}
		for ; section < size; section += 8 {
			at = append(at, section)
		}
	default:
		for _, pack := range img.index.packs {
			if base != pack.oci().Encoded() {
				continue
			}
			for _, f := range img.index.frames[pack.firstFrame : pack.firstFrame+pack.frames] {
				at = append(at, int(f.offset), int(f.offset)+4) // 4: behind zstd's magic number
			}
		}
	}
	var all []int
	for _, b := range at {
		all = append(all, b-1, b, b+1)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(b int) bool { return b < 0 || b > size })
}

func TestDamageAtBoundaries(t *testing.T) {
	d, files := newDamager(t)
	img := openImage(t, d.store)
	for name, data := range files {
		for _, at := range boundaries(img, name, len(data)) {
			if at < len(data) {
				d.try(name, "cut", data, data[:at])
				for _, bit := range []byte{0x01, 0x80} {
					changed := slices.Clone(data)
					changed[at] ^= bit
					d.try(name, "flipped", data, changed)
				}
			}
			d.try(name, "with a byte more", data, slices.Insert(slices.Clone(data), at, 'x'))
		}
		d.try(name, "with a tail", data, append(slices.Clone(data), make([]byte, PageBytes)...))
		d.try(name, "zeroed", data, make([]byte, len(data)))
	}
}

func TestRandomFlips(t *testing.T) {
	d, files := newDamager(t)
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	})
	flips := 4000
	if testing.Short() {
		flips = 400
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range flips {
		name := names[r.IntN(len(names))]
		changed := slices.Clone(files[name])
		for range 1 + r.IntN(3) {
			changed[r.IntN(len(changed))] ^= byte(1 + r.IntN(255))
		}
		d.try(name, "with random flips", files[name], changed)
	}
}

func TestMissingFiles(t *testing.T) {
	store := smallImage(t)
	for _, name := range filesIn(t, store.Dir()) {
		path := filepath.Join(store.Dir(), name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		want := ErrMissingBlob
		if name == layoutFile {
			want = ErrNotStore
		}
		opened, err := OpenStore(store.Dir())
		if err == nil {
			_, err = readAll(opened, "latest")
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), filepath.Base(name)) {
			t.Errorf("without %s: %v, want %s", name, err, want.Code)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
}

// A blob swapped for another of the image, both intact.
func TestSwappedBlobs(t *testing.T) {
	d, files := newDamager(t)
	for name := range files {
		for other, content := range files {
			if name != other && strings.HasPrefix(name, blobsDir) {
				d.try(name, "swapped for "+other, files[name], content)
			}
		}
	}
}

// Whatever the pages of an image are, what is read while a pack changes is what was written, or an error.
func TestPackThatChangesWhileOpen(t *testing.T) {
	store := smallImage(t)
	img := openImage(t, store)
	path := blobPath(store.Dir(), img.index.packs[0].oci())
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if err := img.ReadPages(0, 10, make([]byte, 64*PageBytes)); !errors.Is(err, ErrDamaged) {
		t.Errorf("ReadPages: %v, want ErrDamaged", err)
	}
	if err := img.Verify(context.Background()); !errors.Is(err, ErrDamaged) {
		t.Errorf("Verify: %v, want ErrDamaged", err)
	}
}
