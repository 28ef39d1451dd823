package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var newGolden = flag.String("new-golden", "", "write a golden image of this name to testdata, with damaged ones; the name must be new")

// goldenDir has images that releases wrote. They are kept for ever: each release reads them or refuses them clearly. Beside each image stands
// what reading it must give: "ok" and a digest of all contents, or the code of an error.
const goldenDir = "testdata/golden"

func TestGoldenImages(t *testing.T) {
	if *newGolden != "" {
		writeGolden(t, filepath.Join(goldenDir, *newGolden))
	}
	expectations, err := filepath.Glob(filepath.Join(goldenDir, "*.expect"))
	if err != nil || len(expectations) < 8 {
		t.Fatalf("found %d golden images, %v; they are never removed", len(expectations), err)
	}
	for _, file := range expectations {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir := strings.TrimSuffix(file, ".expect")
		if got := outcome(dir); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

// outcome reads an image in every way and says what came out.
func outcome(dir string) string {
	store, err := OpenStore(dir)
	var c *contents
	if err == nil {
		c, err = readAll(store, "latest")
	}
	var ours *Error
	switch {
	case errors.As(err, &ours):
		return string(ours.Code)
	case err != nil:
		return err.Error()
	}
	sum := sha256.New()
	for _, file := range []FileID{0, 7} {
		fmt.Fprintln(sum, c.Runs[file])
		sum.Write(c.Pages[file])
	}
	for _, state := range c.Config.States {
		fmt.Fprintln(sum, state)
		sum.Write(c.States[state.Kind])
	}
	return "ok " + hex.EncodeToString(sum.Sum(nil))
}

// writeGolden writes an image of today's format, and one for each way of damage.
func writeGolden(t *testing.T, name string) {
	if _, err := os.Lstat(name); err == nil {
		t.Fatalf("%s exists: golden images are not changed", name)
	}
	store := smallImage(t)
	img := openImage(t, store)
	blob := func(d Descriptor) string { return filepath.Join(blobsDir, d.Digest.Encoded()) }
	flip := func(name string, at int) func(dir string) error {
		return func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				data[at] ^= 0x10
				err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
			}
			return err
		}
	}
	for suffix, damage := range map[string]func(dir string) error{
		"":               func(string) error { return nil },
		"-raw-page":      flip(blob(img.manifest.packs[1]), 5),
		"-zstd-frame":    flip(blob(img.manifest.packs[0]), 700),
		"-page-index":    flip(blob(img.manifest.index), 100),
		"-config":        flip(blob(img.manifest.config), 12),
		"-manifest":      flip(blob(img.descriptor), 40),
		"-state":         flip(blob(img.manifest.states[0]), 9),
		"-cut-pack":      func(dir string) error { return os.Truncate(filepath.Join(dir, blob(img.manifest.packs[0])), 1000) },
		"-without-index": func(dir string) error { return os.Remove(filepath.Join(dir, blob(img.manifest.index))) },
	} {
		dir := name + suffix
		for _, file := range filesIn(t, store.Dir()) {
			data, err := os.ReadFile(filepath.Join(store.Dir(), file))
			err = errors.Join(err, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755), os.WriteFile(filepath.Join(dir, file), data, 0o600))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(damage(dir), os.WriteFile(dir+".expect", []byte(outcome(dir)+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// A golden image stays readable as a parent, and images made of it too.
func TestGoldenImageAsParent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(goldenDir, "v1"))); err != nil {
		t.Fatal(err)
	}
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(store, "latest")
	if err != nil {
		t.Fatal(err)
	}
	parent := openImage(t, store)
	w := newWriter(t, store, WriterOptions{Parent: parent})
	for file, runs := range want.Runs {
		pages := want.Pages[file]
		for _, run := range runs {
			mustAdd(t, w, file, run.First, pages[:run.Count*PageBytes])
			pages = pages[run.Count*PageBytes:]
		}
	}
	commit(t, w, "child")
	child, err := store.Open(context.Background(), "child", OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	if !slices.EqualFunc(child.manifest.packs, parent.manifest.packs, func(a, b Descriptor) bool { return a.Digest == b.Digest }) {
		t.Error("a child with the same pages has packs of its own")
	}
}
