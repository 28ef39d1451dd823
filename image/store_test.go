package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseReference(t *testing.T) {
	for text, want := range map[string]Reference{
		"dir":                           {"dir", "latest"},
		"dir:v1.2_x-y":                  {"dir", "v1.2_x-y"},
		"/a/b:c":                        {"/a/b", "c"},
		"/a:b/c":                        {"/a:b/c", "latest"},
		"/a:b/c:d":                      {"/a:b/c", "d"},
		"a:b:c":                         {"a:b", "c"},
		"./x y":                         {"./x y", "latest"},
		"dir/":                          {"dir/", "latest"},
		"x:" + strings.Repeat("n", 128): {"x", strings.Repeat("n", 128)},
	} {
		got, err := ParseReference(text)
		if err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", ":x", "dir:", "dir:.x", "dir: ", "dir:a b", "a\x00b", "x:" + strings.Repeat("n", 129)} {
		if got, err := ParseReference(text); !errors.Is(err, ErrReference) {
			t.Errorf("%q is %v, %v; want ErrReference", text, got, err)
		}
	}
}

func TestCreateStoreRefusesOtherDirectories(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateStore(dir); !errors.Is(err, ErrNotStore) {
		t.Errorf("a directory with other files: %v, want ErrNotStore", err)
	}
	if files := filesIn(t, dir); !slices.Equal(files, []string{"mine"}) {
		t.Errorf("the directory has %v now", files)
	}
	if _, err := CreateStore(filepath.Join(dir, "mine")); err == nil {
		t.Error("a file was accepted as a store")
	}
}

// An empty directory that was there before stays there after an abort.
func TestAbortKeepsDirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	store, err := CreateStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 10))
	w.Abort()
	if _, err := os.Lstat(dir); err != nil {
		t.Error(err)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 10))
	commit(t, w, "latest")
	for _, name := range append(filesIn(t, store.Dir()), lockFile) {
		info, err := os.Lstat(filepath.Join(store.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode())
		}
	}
}

func TestManyCreateOneStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			store, err := CreateStore(dir)
			if err != nil {
				t.Error(err)
				return
			}
			w := newWriter(t, store, WriterOptions{Workers: 1})
			mustAdd(t, w, 0, 0, randomPages(byte(i), 10))
			if _, err := w.Commit("image"+string(rune('a'+i)), testConfig()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.List()
	if err != nil || len(list) != 6 {
		t.Errorf("the store has %v, %v; want 6 images", list, err)
	}
}

// writeChain writes three images of which each has the one before as parent, and returns their memory.
func writeChain(t *testing.T, store *Store) [][]byte {
	memory := textOrRandom(200)
	var versions [][]byte
	var parent *Image
	for i, name := range []string{"one", "two", "three"} {
		copy(memory[i*20*PageBytes:], randomPages(byte(40+i), 20))
		w := newWriter(t, store, WriterOptions{Parent: parent, packs: 1})
		mustAdd(t, w, 0, 0, memory)
		if parent != nil {
			if err := parent.Close(); err != nil {
				t.Fatal(err)
			}
		}
		commit(t, w, name)
		versions = append(versions, slices.Clone(memory))
		var err error
		if parent, err = store.Open(context.Background(), name, OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return versions
}

func textOrRandom(pages int) []byte {
	memory := randomPages(99, pages)
	for at := 0; at < len(memory); at += 8 * PageBytes {
		copy(memory[at:at+2*PageBytes], bytes.Repeat([]byte{byte(at >> 12), 'x', 0, byte(at >> 15)}, PageBytes/2))
	}
	return memory
}

func TestChildNamesPacksOfParents(t *testing.T) {
	store := newStore(t)
	versions := writeChain(t, store)
	check := func(names ...string) {
		t.Helper()
		for _, name := range names {
			img, err := store.Open(context.Background(), name, OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := img.Verify(context.Background()); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(readPages(t, img, 0, 0, 200), versions[slices.Index([]string{"one", "two", "three"}, name)]) {
				t.Errorf("image %s has other pages than were saved", name)
			}
			_ = img.Close()
		}
	}
	check("one", "two", "three")
	size := func(name string) int64 {
		img, err := store.Open(context.Background(), name, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		return img.manifest.packs[len(img.manifest.packs)-1].Size
	}
	if own := size("three"); own != 20*PageBytes {
		t.Errorf("the last child stores %d bytes of its own, want 20 pages", own)
	}
	for _, name := range []string{"one", "two"} {
		freed, err := store.Delete(name)
		if err != nil || freed.Blobs == 0 {
			t.Errorf("delete %s: %+v, %v", name, freed, err)
		}
		check("three")
	}
	if _, err := store.Delete("three"); err != nil {
		t.Fatal(err)
	}
	if left := filesIn(t, store.Dir()); !slices.Equal(left, []string{indexJSON, layoutFile}) {
		t.Errorf("an empty store has %v", left)
	}
}

func TestParentOfAnotherStore(t *testing.T) {
	parent := newStore(t)
	w := newWriter(t, parent, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 10))
	commit(t, w, "latest")
	if _, err := newStore(t).NewWriter(context.Background(), WriterOptions{Parent: openImage(t, parent)}); !errors.Is(err, ErrMissingBlob) {
		t.Errorf("parent of another store: %v, want ErrMissingBlob", err)
	}
}

func TestNewImageReplacesOneOfTheName(t *testing.T) {
	store := newStore(t)
	for i := range byte(3) {
		w := newWriter(t, store, WriterOptions{})
		mustAdd(t, w, 0, 0, randomPages(i, 10))
		commit(t, w, "latest")
	}
	img := openImage(t, store)
	if !bytes.Equal(readPages(t, img, 0, 0, 10), randomPages(2, 10)) {
		t.Error("the name is not that of the last image")
	}
	if files := filesIn(t, filepath.Join(store.Dir(), blobsDir)); len(files) != 4 {
		t.Errorf("the store has %v, want manifest, config, index and pack", files)
	}
	// An open image outlives its deletion.
	if _, err := store.Delete("latest"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readPages(t, img, 0, 0, 10), randomPages(2, 10)) {
		t.Error("the open image has changed")
	}
}

// Images that others put into a layout survive Collect, with all that they refer to.
func TestCollectKeepsWhatItDoesNotKnow(t *testing.T) {
	store := newStore(t)
	put := func(content string) Descriptor {
		d := digest.FromString(content)
		if err := os.WriteFile(blobPath(store.Dir(), d), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
	}
	object := func(value any) Descriptor {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return put(string(data))
	}
	config, layer, subject := put("config"), put("layer"), object(v1.Manifest{})
	elsewhere := Descriptor{Digest: digest.FromString("elsewhere"), Size: 9}
	inner := object(v1.Manifest{Config: config, Layers: []Descriptor{layer}, Subject: &subject})
	outer := object(v1.Index{Manifests: []Descriptor{inner, elsewhere}})
	lock, err := openLock(store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.updateIndex(lock, func(index *v1.Index) (bool, error) {
		index.Manifests = append(index.Manifests, outer)
		return true, nil
	})
	lock.close()
	if err != nil {
		t.Fatal(err)
	}
	garbage := put("garbage")
	got, err := store.Collect()
	if err != nil || got != (Collected{Blobs: 1, Bytes: 7}) {
		t.Errorf("collected %+v, %v; want the garbage", got, err)
	}
	for _, d := range []Descriptor{config, layer, subject, inner, outer} {
		if !store.has(d.Digest) {
			t.Errorf("%s is gone", d.Digest)
		}
	}
	if store.has(garbage.Digest) {
		t.Error("garbage is still there")
	}
	if list, err := store.List(); err != nil || len(list) != 1 || list[0].Checkpoint {
		t.Errorf("list is %+v, %v; want one that is no checkpoint", list, err)
	}
	// Nothing is removed as long as it is not known what is needed.
	if err := os.WriteFile(blobPath(store.Dir(), inner.Digest), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	put("garbage")
	if _, err := store.Collect(); !errors.Is(err, ErrDamaged) || !store.has(garbage.Digest) {
		t.Errorf("collect with a damaged manifest: %v, want ErrDamaged and nothing removed", err)
	}
}

func TestCheckHost(t *testing.T) {
	config := testConfig()
	host := func(change func(*Host)) Host {
		c := testConfig()
		h := Host{Build: c.Build, GVisor: c.GVisor, Arch: c.Arch, CPU: c.CPU}
		change(&h)
		return h
	}
	for _, test := range []struct {
		name   string
		change func(*Host)
		want   error
	}{
		{"the same", func(*Host) {}, nil},
		{"more features", func(h *Host) { h.CPU.Features = []string{"avx", "avx2", "sse2"} }, nil},
		{"a feature less", func(h *Host) { h.CPU.Features = []string{"sse2"} }, ErrCPU},
		{"cache line", func(h *Host) { h.CPU.CacheLineBytes = 128 }, ErrCPU},
		{"size of XSAVE", func(h *Host) { h.CPU.XSAVEBytes++ }, ErrCPU},
		{"components of XSAVE", func(h *Host) { h.CPU.XSAVEFeatures++ }, ErrCPU},
		{"MXCSR", func(h *Host) { h.CPU.MXCSRMask-- }, ErrCPU},
		{"architecture", func(h *Host) { h.Arch = "arm64" }, ErrArch},
		{"build", func(h *Host) { h.Build = "v2" }, ErrBuild},
		{"gVisor", func(h *Host) { h.GVisor = "v2" }, ErrBuild},
	} {
		if err := config.CheckHost(host(test.change)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// The host is compared before index and packs are looked at: here they are gone.
func TestHostIsCheckedBeforePages(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 10))
	commit(t, w, "latest")
	img := openImage(t, store)
	for _, d := range append(img.manifest.packs, img.manifest.index) {
		if err := os.Remove(blobPath(store.Dir(), d.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Open(context.Background(), "latest", OpenOptions{Host: &Host{Arch: "amd64"}}); !errors.Is(err, ErrBuild) {
		t.Errorf("open on another build: %v, want ErrBuild", err)
	}
	if _, err := store.Open(context.Background(), "latest", OpenOptions{}); !errors.Is(err, ErrMissingBlob) {
		t.Errorf("open without a page index: %v, want ErrMissingBlob", err)
	}
}

func TestLoadStopsAtTheFirstError(t *testing.T) {
	store := newStore(t)
	w := newWriter(t, store, WriterOptions{})
	mustAdd(t, w, 0, 0, randomPages(1, 2000))
	commit(t, w, "latest")
	img := openImage(t, store)
	refused := errors.New("refused")
	sink := func(uint64, []byte) error { return refused }
	if err := img.Load(context.Background(), map[FileID]PageSink{0: sink}, LoadOptions{}); !errors.Is(err, refused) {
		t.Errorf("Load: %v, want the sink's error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := img.Load(ctx, map[FileID]PageSink{0: sink}, LoadOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Load: %v", err)
	}
	_ = img.Close()
	if err := img.ReadPages(0, 0, make([]byte, PageBytes)); !errors.Is(err, ErrClosed) {
		t.Errorf("ReadPages after Close: %v, want ErrClosed", err)
	}
}
