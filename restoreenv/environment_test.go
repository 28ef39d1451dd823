package restoreenv

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// newBundle makes a bundle directory with an empty rootfs, a directory data and
// a file.
func newBundle(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"rootfs", "data"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Each golden case compiles to its environment, and marshals to exactly it.
func TestGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/restoreenv.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name         string
		Spec         specs.Spec
		MountSources json.RawMessage
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 3 {
		t.Fatalf("%d golden cases, want 3", len(cases))
	}
	for _, golden := range cases {
		t.Run(golden.Name, func(t *testing.T) {
			list, err := mounts.Compile(&golden.Spec, mounts.Options{Bundle: newBundle(t)})
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(Build("root", list)["root"])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(generic(t, golden.MountSources), generic(t, got)); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}

func generic(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParseRefuses(t *testing.T) {
	for name, data := range map[string]string{
		"not JSON":      `{`,
		"two values":    `{} {}`,
		"unknown field": `{"c":{"tmpfs":[{"dev":"none","destination":"/a","colour":"red"}]}}`,
		"relative":      `{"c":{"tmpfs":[{"dev":"none","destination":"a"}]}}`,
		"unclean":       `{"c":{"tmpfs":[{"dev":"none","destination":"/a/../b"}]}}`,
		"wrong device":  `{"c":{"9p":[{"dev":"9pfs-/b","destination":"/a"}]}}`,
		"twice":         `{"c":{"tmpfs":[{"dev":"none","destination":"/a"}],"proc":[{"dev":"none","destination":"/a"}]}}`,
		"too long":      `{}` + strings.Repeat(" ", maxEnvironmentBytes),
	} {
		if _, err := Parse([]byte(data)); err == nil {
			t.Errorf("%s: parses", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"root":{"9p":[{"dev":"9pfs-/","destination":"/","flags":{"readOnly":true}}],"tmpfs":[{"dev":"none","destination":"/tmp","data":"size=1m"}]}}`))
	f.Add([]byte(`{"":{"":[]}}`))
	f.Add([]byte(`{"c":{"9p":[{"dev":"9pfs-/a","destination":"/a","isFile":true,"source":"/x","fingerprint":"tree1:00"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		canonical, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(canonical)
		if err != nil {
			t.Fatalf("what was marshalled does not parse: %v", err)
		}
		twice, err := json.Marshal(again)
		if err != nil || string(twice) != string(canonical) {
			t.Errorf("%s became %s, %v", canonical, twice, err)
		}
		// Held against itself, only what is on no host can be wrong.
		_, findings := Resolve(e, again, Options{})
		for _, finding := range findings {
			if finding.Code != CodeSourceUnusable {
				t.Errorf("differs from itself: %+v", finding)
			}
		}
	})
}

func TestFingerprint(t *testing.T) {
	build := func(t *testing.T) string {
		dir := t.TempDir()
		for _, err := range []error{
			os.MkdirAll(filepath.Join(dir, "bin"), 0o755),
			os.WriteFile(filepath.Join(dir, "bin/sh"), []byte("shell"), 0o755),
			os.Symlink("sh", filepath.Join(dir, "bin/ash")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	of := func(t *testing.T, dir string) string {
		print, err := Fingerprint(dir)
		if err != nil {
			t.Fatal(err)
		}
		return print
	}
	original := of(t, build(t))
	if copied := of(t, build(t)); copied != original || !strings.HasPrefix(copied, "tree1:") {
		t.Errorf("a copy has %s, the original %s", copied, original)
	}
	for name, change := range map[string]func(dir string) error{
		"size": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "bin/sh"), []byte("longer shell"), 0o755)
		},
		"mode":   func(dir string) error { return os.Chmod(filepath.Join(dir, "bin/sh"), 0o700) },
		"added":  func(dir string) error { return os.Mkdir(filepath.Join(dir, "etc"), 0o755) },
		"gone":   func(dir string) error { return os.Remove(filepath.Join(dir, "bin/ash")) },
		"rename": func(dir string) error { return os.Rename(filepath.Join(dir, "bin/sh"), filepath.Join(dir, "bin/sH")) },
		"target": func(dir string) error {
			link := filepath.Join(dir, "bin/ash")
			if err := os.Remove(link); err != nil {
				return err
			}
			return os.Symlink("zsh", link)
		},
	} {
		dir := build(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if of(t, dir) == original {
			t.Errorf("%s: the fingerprint is the same", name)
		}
	}
	if _, err := fingerprint(build(t), 3); err == nil {
		t.Error("four entries pass a bound of three")
	}
	if _, err := Fingerprint(filepath.Join(build(t), "gone")); err == nil {
		t.Error("nothing has a fingerprint")
	}
}

func TestSupply(t *testing.T) {
	var supply Supply[int]
	for device, fd := range map[string]int{"9pfs-/": 3, "9pfs-/data": 4, "9pfs-/more": 5} {
		if err := supply.Add("root", device, fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := supply.Add("root", "9pfs-/", 6); err == nil {
		t.Error("a device has two resources")
	}
	if fd, err := supply.Take("root", "9pfs-/data"); fd != 4 || err != nil {
		t.Errorf("took %d, %v", fd, err)
	}
	if _, err := supply.Take("root", "9pfs-/data"); err == nil {
		t.Error("a device is handed out twice")
	}
	if _, err := supply.Take("other", "9pfs-/"); err == nil {
		t.Error("another container's device is handed out")
	}
	const want = `resources left over: "9pfs-/" of container "root", "9pfs-/more" of container "root"`
	if err := supply.Consumed(); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	for _, device := range []string{"9pfs-/", "9pfs-/more"} {
		if _, err := supply.Take("root", device); err != nil {
			t.Error(err)
		}
	}
	if err := supply.Consumed(); err != nil {
		t.Errorf("all taken: %v", err)
	}
}

func TestParseMap(t *testing.T) {
	got, err := ParseMap([]string{"/data/=/srv/x=y", "/=rel"})
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"/data": "/srv/x=y", "/": filepath.Join(wd, "rel")}, got); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
	for _, bad := range [][]string{{"data=/x"}, {"/data"}, {"/data="}, {"/a=/x", "/a/=/y"}} {
		if _, err := ParseMap(bad); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"/var/lib/data", "/srv/data", "/etc"}
	for name, want := range map[string]string{"/var/lib/date": "/var/lib/data", "/srv/dat": "/srv/data", "/completely/different/path": "", "/etcc": "/etc"} {
		if got := nearest(name, candidates); got != want {
			t.Errorf("nearest to %q is %q, want %q", name, got, want)
		}
	}
}
