package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/image/sha256x16"
)

func newStore(tb testing.TB) *Store {
	tb.Helper()
	store, err := CreateStore(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

func newWriter(tb testing.TB, store *Store, options WriterOptions) *Writer {
	tb.Helper()
	w, err := store.NewWriter(context.Background(), options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.Abort)
	return w
}

func commit(tb testing.TB, w *Writer, name string) Descriptor {
	tb.Helper()
	d, err := w.Commit(name, testConfig())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// randomPages returns n different pages that do not compress.
func randomPages(seed byte, n int) []byte {
	pages := make([]byte, n*PageBytes)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(pages)
	return pages
}

func mustAdd(tb testing.TB, w *Writer, file FileID, first uint64, data []byte) {
	tb.Helper()
	if err := w.AddPages(file, first, data); err != nil {
		tb.Fatal(err)
	}
}

func readPages(tb testing.TB, img *Image, file FileID, first uint64, n int) []byte {
	tb.Helper()
	data := make([]byte, n*PageBytes)
	if err := img.ReadPages(file, first, data); err != nil {
		tb.Fatal(err)
	}
	return data
}

// filesIn returns all files below a directory, but the lock.
func filesIn(tb testing.TB, dir string) []string {
	tb.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != lockFile {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

func TestEqualAndZeroPagesAreStoredOnce(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{Workers: 3})
	pages := randomPages(1, 200)
	mustAdd(t, w, 0, 1000, pages)
	mustAdd(t, w, 0, 5000, pages) // the same again, elsewhere
	mustAdd(t, w, 7, 0, pages[:16*PageBytes])
	mustAdd(t, w, 0, 7000, make([]byte, 50*PageBytes))
	commit(t, w, "latest")
	img := openImage(t, store)
	got := img.Stats()
	want := Stats{PagesCommitted: 466, PagesZero: 50, PagesData: 416, PagesDistinct: 200, PagesDuplicate: 216}
	if got.PagesCommitted != want.PagesCommitted || got.PagesZero != want.PagesZero || got.PagesData != want.PagesData ||
		got.PagesDistinct != want.PagesDistinct || got.PagesDuplicate != want.PagesDuplicate || got.PagesUnused != 0 {
		t.Errorf("pages are %+v, want %+v", got, want)
	}
	if !bytes.Equal(readPages(t, img, 0, 5000, 200), pages) || !bytes.Equal(readPages(t, img, 7, 0, 16), pages[:16*PageBytes]) {
		t.Error("pages differ from what was added")
	}
	wantRuns := []PageRun{{Run{1000, 200}, false}, {Run{5000, 200}, false}, {Run{7000, 50}, true}}
	if runs := img.Runs(0); !slices.Equal(runs, wantRuns) {
		t.Errorf("runs are %v, want %v", runs, wantRuns)
	}
}

func TestRoundsReplaceDropAndKeep(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{Workers: 2})
	first, second := randomPages(1, 300), randomPages(2, 300)
	mustAdd(t, w, 0, 0, first)
	mustAdd(t, w, 0, 10, second[:20*PageBytes])
	mustAdd(t, w, 0, 40, make([]byte, 5*PageBytes))
	if err := w.DropPages(0, Run{100, 50}); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, w, 0, 120, second[100*PageBytes:101*PageBytes])
	if err := w.KeepOnly(0, []Run{{120, 1}, {0, 60}, {50, 40}}); err != nil { // in any order, overlapping
		t.Fatal(err)
	}
	commit(t, w, "latest")
	img := openImage(t, store)
	wantRuns := []PageRun{{Run{0, 40}, false}, {Run{40, 5}, true}, {Run{45, 45}, false}, {Run{120, 1}, false}}
	if runs := img.Runs(0); !slices.Equal(runs, wantRuns) {
		t.Fatalf("runs are %v, want %v", runs, wantRuns)
	}
	want := slices.Clone(first[:90*PageBytes])
	copy(want[10*PageBytes:], second[:20*PageBytes])
	clear(want[40*PageBytes : 45*PageBytes])
	if !bytes.Equal(readPages(t, img, 0, 0, 90), want) {
		t.Error("pages are not those that were added last")
	}
	for _, page := range []uint64{90, 100, 121, MaxFilePages - 1} {
		if err := img.ReadPages(0, page, make([]byte, PageBytes)); !errors.Is(err, ErrNoPage) {
			t.Errorf("page %d: %v, want ErrNoPage", page, err)
		}
	}
	if err := img.Verify(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestCommittedPageThatWasNotAdded(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 10))
	if err := w.KeepOnly(0, []Run{{0, 11}}); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "page 10 ") {
		t.Errorf("KeepOnly: %v, want ErrIncomplete for page 10", err)
	}
	if _, err := w.Commit("latest", testConfig()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Commit: %v, want the error of KeepOnly", err)
	}
}

func TestConcurrentWriters(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{Workers: 3, PackBytes: 256 << 10})
	shared := textLike(rand.New(rand.NewPCG(1, 1)), 64*PageBytes)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			own := randomPages(byte(i), 100)
			if err := w.AddFrom(context.Background(), 0, offsetReader{bytes.NewReader(own), int64(i) * 1000 * PageBytes}, []Run{{uint64(i) * 1000, 100}}); err != nil {
				t.Error(err)
			}
			if err := w.AddPages(0, uint64(i)*1000+500, shared); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	commit(t, w, "latest")
	img := openImage(t, store)
	if distinct := img.Stats().PagesDistinct; distinct != 864 {
		t.Errorf("%d distinct pages, want 864", distinct)
	}
	for i := range 8 {
		group.Go(func() {
			got := make([]byte, 100*PageBytes)
			if err := img.ReadPages(0, uint64(i)*1000, got); err != nil || !bytes.Equal(got, randomPages(byte(i), 100)) {
				t.Errorf("pages of writer %d differ: %v", i, err)
			}
			if err := img.ReadPages(0, uint64(i)*1000+500, got[:64*PageBytes]); err != nil || !bytes.Equal(got[:64*PageBytes], shared) {
				t.Errorf("shared pages of writer %d differ: %v", i, err)
			}
		})
	}
	group.Wait()
}

// offsetReader reads as if its content began at an offset.
type offsetReader struct {
	inner  io.ReaderAt
	offset int64
}

func (r offsetReader) ReadAt(p []byte, at int64) (int, error) { return r.inner.ReadAt(p, at-r.offset) }

func TestSourceThatEnds(t *testing.T) {
	w := newWriter(t, newStore(t), WriterOptions{})
	err := w.AddFrom(context.Background(), 3, bytes.NewReader(make([]byte, 10*PageBytes)), []Run{{0, 20}})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "page 10 of memory file 3") {
		t.Errorf("error is %v, want an unexpected EOF at page 10 of memory file 3", err)
	}
}

func TestWrongArguments(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"half a page":     {w.AddPages(0, 0, make([]byte, 100)), ErrConfig},
		"beyond the end":  {w.AddPages(0, MaxFilePages-1, make([]byte, 2*PageBytes)), ErrTooLarge},
		"overflow":        {w.DropPages(0, Run{1, ^uint64(0)}), ErrTooLarge},
		"name":            {second(w.Commit("../x", testConfig())), ErrReference},
		"kind of state":   {second(w.StateWriter("Kernel")), ErrConfig},
		"compression":     {second(store.NewWriter(context.Background(), WriterOptions{Compression: "lz4"})), ErrConfig},
		"level":           {second(store.NewWriter(context.Background(), WriterOptions{Level: 9})), ErrConfig},
		"name to open":    {second(store.Open(context.Background(), "other", OpenOptions{})), ErrNotFound},
		"name to delete":  {second(store.Delete("other")), ErrNotFound},
		"no store":        {second(OpenStore(t.TempDir())), ErrNotStore},
		"store not there": {second(OpenStore("/nonexistent/x")), ErrNotStore},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %s", name, test.err, test.want.(*Error).Code)
		}
	}
	mustAdd(t, w, 0, 0, randomPages(1, 1)) // none of them harmed the writer
	config := testConfig()
	config.Memory = nil
	if _, err := w.Commit("latest", config); !errors.Is(err, ErrConfig) {
		t.Errorf("commit with pages of a memory file that the config does not have: %v, want ErrConfig", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestStates(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	content := map[string][]byte{"kernel": textLike(rand.New(rand.NewPCG(1, 1)), 3<<20), "memory": randomPages(3, 5), "empty": nil}
	for kind, data := range content {
		s, err := w.StateWriter(kind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.StateWriter("kernel"); !errors.Is(err, ErrConfig) {
		t.Errorf("second stream of a kind: %v, want ErrConfig", err)
	}
	commit(t, w, "latest")
	img := openImage(t, store)
	for kind, data := range content {
		r, err := img.OpenState(kind)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("state %s differs: %v", kind, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := img.OpenState("other"); !errors.Is(err, ErrIncomplete) {
		t.Errorf("state that is not there: %v, want ErrIncomplete", err)
	}
}

func TestStateLeftOpen(t *testing.T) {
	w := newWriter(t, newStore(t), WriterOptions{})
	if _, err := w.StateWriter("kernel"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit("latest", testConfig()); !errors.Is(err, ErrConfig) {
		t.Errorf("commit with an open state: %v, want ErrConfig", err)
	}
}

// A writer that ends without Commit leaves nothing, in a store that it made and in one that has images.
func TestAbortLeavesNothing(t *testing.T) {
	for _, noAnonymous := range []bool{false, true} {
		store := newStore(t)
		store.noAnonymous = noAnonymous
		w := newWriter(t, store, WriterOptions{PackBytes: 64 << 10})
		mustAdd(t, w, 0, 0, randomPages(1, 300))
		if _, err := w.StateWriter("kernel"); err != nil {
			t.Fatal(err)
		}
		w.Abort()
		if _, err := os.Lstat(store.Dir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the store is still there: %v", filesIn(t, store.Dir()))
		}
		if err := w.AddPages(0, 0, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("AddPages after Abort: %v, want ErrClosed", err)
		}

		store = newStore(t)
		store.noAnonymous = noAnonymous
		w = newWriter(t, store, WriterOptions{})
		mustAdd(t, w, 0, 0, randomPages(1, 30))
		commit(t, w, "first")
		before := filesIn(t, store.Dir())
		w = newWriter(t, store, WriterOptions{PackBytes: 64 << 10})
		mustAdd(t, w, 0, 0, randomPages(2, 300))
		config := testConfig()
		config.Arch = "" // found when the packs are complete
		if _, err := w.Commit("second", config); !errors.Is(err, ErrConfig) {
			t.Errorf("commit of a bad config: %v, want ErrConfig", err)
		}
		w.Abort()
		if after := filesIn(t, store.Dir()); !slices.Equal(after, before) {
			t.Errorf("files after an abort are %v, were %v", after, before)
		}
	}
}

func TestCancelledWriter(t *testing.T) {
	store := newStore(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	w, err := store.NewWriter(ctx, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	mustAdd(t, w, 0, 0, randomPages(1, 30))
	cause := errors.New("enough")
	cancel(cause)
	if err := w.AddPages(0, 0, randomPages(1, 1)); !errors.Is(err, cause) {
		t.Errorf("AddPages: %v, want the cause", err)
	}
	if _, err := w.Commit("latest", testConfig()); !errors.Is(err, cause) {
		t.Errorf("Commit: %v, want the cause", err)
	}
}

// What a killed writer leaves where there are no anonymous files is removed by the next one.
func TestKilledWriter(t *testing.T) {
	store := newStore(t)
	store.noAnonymous = true
	killed := newWriter(t, store, WriterOptions{})
	mustAdd(t, killed, 0, 0, randomPages(1, 300))
	if _, err := store.Collect(); !errors.Is(err, ErrBusy) {
		t.Errorf("Collect beside a writer: %v, want ErrBusy", err)
	}
	left := filesIn(t, filepath.Join(store.Dir(), tempDir))
	beside := newWriter(t, store, WriterOptions{})
	if now := filesIn(t, filepath.Join(store.Dir(), tempDir)); len(left) == 0 || !slices.Equal(left, now) {
		t.Errorf("a second writer changed the files of the first: %v, were %v", now, left)
	}
	beside.Abort()
	killed.lock.close() // as the kernel does it
	store.created = false
	next := newWriter(t, store, WriterOptions{})
	if now := filesIn(t, filepath.Join(store.Dir(), tempDir)); len(now) > 0 {
		t.Errorf("the next writer left %v", now)
	}
	mustAdd(t, next, 0, 0, randomPages(2, 3))
	commit(t, next, "latest")
	openImage(t, store)
}

// smallFileSystem mounts a tmpfs of some size.
func smallFileSystem(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: a full disk needs root, to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Disks of rising size are full at every point of a checkpoint, until one is large enough.
func TestDiskFull(t *testing.T) {
	pages := randomPages(1, 100)
	for kib := 4; ; kib += 12 {
		dir := smallFileSystem(t, strconv.Itoa(kib)+"k")
		err := checkpointTo(t, filepath.Join(dir, "image"), pages)
		if err == nil {
			if kib < 400 {
				t.Errorf("400 KiB of pages fitted into %d KiB", kib)
			}
			return
		}
		if !errors.Is(err, ErrDiskFull) {
			t.Errorf("on %d KiB: %v, want ErrDiskFull", kib, err)
		}
		var ours *Error
		if !errors.As(err, &ours) || ours.Remedy() == "" {
			t.Errorf("on %d KiB: no remedy for %v", kib, err)
		}
		if left := filesIn(t, dir); len(left) > 0 {
			t.Errorf("on %d KiB: left %v", kib, left)
		}
		if kib > 1000 {
			t.Fatal("a disk of 1000 KiB is still full")
		}
	}
}

// checkpointTo writes one image, the way a caller does it.
func checkpointTo(t *testing.T, dir string, pages []byte) error {
	store, err := CreateStore(dir)
	if err != nil {
		return err
	}
	w, err := store.NewWriter(context.Background(), WriterOptions{Workers: 2, PackBytes: 100 << 10})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := w.AddPages(0, 0, pages); err != nil {
		return err
	}
	s, err := w.StateWriter("kernel")
	if err != nil {
		return err
	}
	if _, err := s.Write(randomPages(9, 5)); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if _, err := w.Commit("latest", testConfig()); err != nil {
		return err
	}
	img := openImage(t, store)
	defer img.Close()
	return img.Verify(context.Background())
}

// A full disk must not take the image that is there.
func TestDiskFullKeepsOtherImages(t *testing.T) {
	store, err := CreateStore(filepath.Join(smallFileSystem(t, "600k"), "image"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 50))
	commit(t, w, "latest")
	before := filesIn(t, store.Dir())
	w = newWriter(t, store, WriterOptions{})
	if err := w.AddPages(0, 0, randomPages(2, 200)); err == nil {
		_, err = w.Commit("latest", testConfig())
		if !errors.Is(err, ErrDiskFull) {
			t.Errorf("second image: %v, want ErrDiskFull", err)
		}
	} else if !errors.Is(err, ErrDiskFull) {
		t.Errorf("second image: %v, want ErrDiskFull", err)
	}
	w.Abort()
	if after := filesIn(t, store.Dir()); !slices.Equal(after, before) {
		t.Errorf("files are %v, were %v", after, before)
	}
	img := openImage(t, store)
	if !bytes.Equal(readPages(t, img, 0, 0, 50), randomPages(1, 50)) {
		t.Error("the first image has changed")
	}
}

func TestPacksOfWorker(t *testing.T) {
	fast := func(n int) int {
		if sha256x16.Fast() {
			return n
		}
		return 1
	}
	for workers, want := range map[int]int{1: fast(16), 2: fast(16), 32: fast(16), 64: fast(8), 85: fast(6), 86: 1, 300: 1, 10_000: 1} {
		options := WriterOptions{Workers: workers}
		if err := options.complete(); err != nil || options.packs != want {
			t.Errorf("%d workers write %d packs each (%v), want %d", workers, options.packs, err, want)
		}
	}
	options := WriterOptions{Parent: &Image{}}
	if err := options.complete(); err != nil || options.packs != 1 {
		t.Errorf("the workers of a child write %d packs each (%v), want 1", options.packs, err)
	}
}
