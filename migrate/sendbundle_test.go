package migrate

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/migrate/bundle"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

func TestNameInBundle(t *testing.T) {
	sb := &sandbox.Sandbox{Record: sandbox.Record{Bundle: "/b", Mounts: &mounts.List{Mounts: []mounts.Mount{{Source: "/b/files", Origin: mounts.OriginRoot}}}}}
	for _, c := range []struct {
		mount mounts.Mount
		name  string
	}{
		{sb.Mounts.Mounts[0], "rootfs"},
		{mounts.Mount{Source: "/b/conf/x"}, "binds/conf/x"},
		{mounts.Mount{Source: "/b/files/etc"}, "rootfs/etc"},
		{mounts.Mount{Source: "/elsewhere", SourceExternal: true}, ""},
		{mounts.Mount{Source: "/b"}, ""},
		{mounts.Mount{Source: "/bb"}, ""},
	} {
		name, ok := nameInBundle(sb, c.mount)
		if name != c.name || ok != (c.name != "") {
			t.Errorf("%+v: %q, %v, want %q", c.mount, name, ok, c.name)
		}
	}
}

func TestRewritePaths(t *testing.T) {
	spec := &specs.Spec{Root: &specs.Root{Path: "files"}, Mounts: []specs.Mount{{Source: "conf"}, {Source: "/b/files/etc/"}, {Source: "/elsewhere"}, {Source: "proc"}}}
	rewritePaths(spec, "/b", map[string]string{"/b/files": "rootfs", "/b/conf": "binds/conf", "/b/files/etc": "rootfs/etc"})
	got := []string{spec.Root.Path}
	for _, m := range spec.Mounts {
		got = append(got, m.Source)
	}
	if want := "rootfs binds/conf rootfs/etc /elsewhere proc"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestWithoutNested(t *testing.T) {
	var got []string
	for _, tree := range withoutNested([]bundle.Tree{{Name: "rootfs"}, {Name: "rootfs/etc"}, {Name: "binds/a"}, {Name: "binds/a"}, {Name: "binds/ab"}}) {
		got = append(got, tree.Name)
	}
	if want := "rootfs binds/a binds/ab"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestBundleReader(t *testing.T) {
	end := func(typ wire.Type, n uint64) wire.Frame {
		return wire.Frame{Type: wire.TypeEnd, Payload: wire.AppendEnd(nil, wire.End{Type: typ, Bytes: n})}
	}
	piece := func(text string) wire.Frame { return wire.Frame{Type: wire.TypeBundle, Payload: []byte(text)} }
	for name, c := range map[string]struct {
		frames []wire.Frame
		good   bool
	}{
		"whole":        {[]wire.Frame{piece("ab"), piece(""), piece("c"), end(wire.TypeBundle, 3)}, true},
		"cut":          {[]wire.Frame{piece("ab")}, false},
		"miscounted":   {[]wire.Frame{piece("ab"), end(wire.TypeBundle, 3)}, false},
		"another end":  {[]wire.Frame{piece("ab"), end(wire.TypeState, 2)}, false},
		"another type": {[]wire.Frame{piece("ab"), {Type: wire.TypeState}}, false},
	} {
		data, err := io.ReadAll(&bundleReader{next: func() (wire.Frame, error) {
			if len(c.frames) == 0 {
				return wire.Frame{}, io.EOF
			}
			f := c.frames[0]
			c.frames = c.frames[1:]
			return f, nil
		}})
		if (err == nil) != c.good || c.good && string(data) != "abc" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestCheckOffer(t *testing.T) {
	fits := wire.Bundle{Entries: 1, Bytes: 100}
	for name, c := range map[string]struct {
		receiver *Receiver
		offer    wire.Bundle
		taken    bool
	}{
		"fits":       {&Receiver{BundleDir: "/b", MaxBundleBytes: 100}, fits, true},
		"too large":  {&Receiver{BundleDir: "/b", MaxBundleBytes: 99}, fits, false},
		"none taken": {&Receiver{BundleDir: "/b"}, fits, false},
		"too many":   {&Receiver{BundleDir: "/b", MaxBundleBytes: 100}, wire.Bundle{Entries: bundle.MaxEntries + 1}, false},
		"own bundle": {&Receiver{BundleDir: "/b", MaxBundleBytes: 100, Bundles: map[string]string{"web": "/own"}}, fits, false},
	} {
		if got := c.receiver.checkOffer("web", &c.offer); (len(got) == 0) != c.taken {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSweepBundles(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	r := &Receiver{Root: sandbox.Root(root), BundleDir: filepath.Join(dir, "bundles"), Logger: slog.New(slog.DiscardHandler)}
	if err := r.SweepBundles(); err != nil {
		t.Fatal(err) // there is none
	}
	for _, name := range []string{"web.1", "gone.2", ".new-web.3"} {
		if err := os.MkdirAll(filepath.Join(r.BundleDir, name, "rootfs"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(root, "web")
	record := `{"id":"web","bundle":"` + filepath.Join(r.BundleDir, "web.1") + `","ownsBundle":true}`
	if err := errors.Join(os.Mkdir(state, 0o700), os.WriteFile(filepath.Join(state, "state.json"), []byte(record), 0o600)); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "link") // the same directory by another name
	if err := os.Symlink(dir, elsewhere); err != nil {
		t.Fatal(err)
	}
	r.BundleDir = filepath.Join(elsewhere, "bundles")
	unreadable := filepath.Join(root, "torn")
	if err := errors.Join(os.Mkdir(unreadable, 0o700), os.WriteFile(filepath.Join(unreadable, "state.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.SweepBundles(); err == nil {
		t.Error("it cannot know whose the bundles are")
	}
	if err := r.SweepBundles(); err == nil || !strings.Contains(err.Error(), "another agent's") {
		t.Errorf("another sweeps beside it: %v", err)
	}
	if entries, err := os.ReadDir(r.BundleDir); err != nil || len(entries) != 3 {
		t.Errorf("left are %v, %v, want all", entries, err)
	}
	if err := errors.Join(r.bundleLock.Close(), os.RemoveAll(unreadable)); err != nil {
		t.Fatal(err)
	}
	if err := r.SweepBundles(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(r.BundleDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "web.1" {
		t.Errorf("left are %v, %v, want web.1", entries, err)
	}
}
