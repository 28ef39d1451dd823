package restoreenv

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

const container = "root"

// fixture is a saved sandbox, and the host on which it is to be restored.
type fixture struct {
	t      *testing.T
	saved  Environment
	bundle string
	outer  string // a directory outside the bundle
	spec   *specs.Spec
	opts   Options
}

// baseSpec has a mount for each mistake that a test makes.
func baseSpec(outer string) *specs.Spec {
	return &specs.Spec{Root: &specs.Root{Path: "rootfs"}, Mounts: []specs.Mount{
		{Destination: "/data", Type: "bind", Source: "data", Options: []string{"rbind"}},
		{Destination: "/conf", Type: "bind", Source: "file", Options: []string{"ro"}},
		{Destination: "/outer", Type: "bind", Source: outer, Options: []string{"nosuid"}},
		{Destination: "/scratch", Type: "tmpfs", Options: []string{"size=1m", "mode=700"}},
		{Destination: "/queue", Type: "mqueue"},
	}}
}

// newFixture saves a sandbox, as an image does, and gives the target an equal
// bundle elsewhere.
func newFixture(t *testing.T) *fixture {
	outer := t.TempDir()
	list, err := mounts.Compile(baseSpec(outer), mounts.Options{Bundle: newBundle(t)})
	if err != nil {
		t.Fatal(err)
	}
	environment := Build(container, list)
	if err := environment.AddFingerprints(func(destination string) bool { return destination == "/" }); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(environment)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, saved: saved, bundle: newBundle(t), outer: outer, spec: baseSpec(outer)}
}

func (f *fixture) resolve() (*Resolution, Findings) {
	f.t.Helper()
	list, err := mounts.Compile(f.spec, mounts.Options{Bundle: f.bundle, TmpDecision: mounts.TmpMounted})
	f.opts.BundleErrors = map[string]error{container: err}
	return Resolve(f.saved, Build(container, list), f.opts)
}

func (f *fixture) mount(destination string) *specs.Mount {
	f.t.Helper()
	for i := range f.spec.Mounts {
		if f.spec.Mounts[i].Destination == destination {
			return &f.spec.Mounts[i]
		}
	}
	f.t.Fatalf("no mount on %q", destination)
	return nil
}

func (f *fixture) remove(destination string) {
	f.spec.Mounts = slices.DeleteFunc(f.spec.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
}

func (f *fixture) write(name string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.bundle, name), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func summary(findings Findings) []string {
	all := []string{}
	for _, f := range findings {
		all = append(all, string(f.Code)+" "+f.Destination)
	}
	return all
}

func TestResolveFits(t *testing.T) {
	f := newFixture(t)
	resolution, findings := f.resolve()
	if len(findings) != 0 || findings.Refuses(PolicyStrict) || findings.Err(PolicyStrict) != nil {
		t.Errorf("an equal bundle has findings: %v", findings)
	}
	in := func(name string) string { return filepath.Join(f.bundle, name) }
	want := []Backing{
		{container, "9p", "9pfs-/", "/", in("rootfs"), false, false, false, false},
		{container, "9p", "9pfs-/data", "/data", in("data"), false, false, true, false},
		{container, "9p", "9pfs-/conf", "/conf", in("file"), true, true, false, false},
		{container, "9p", "9pfs-/outer", "/outer", f.outer, false, false, false, false},
	}
	if diff := cmp.Diff(want, resolution.Gofer(container)); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	if len(resolution.Mounts) != len(want)+7 {
		t.Errorf("%d mounts have a backing, want %d", len(resolution.Mounts), len(want)+7)
	}
}

// Each difference gives one finding with everything that a user needs, refuses
// under the policies that it should, and none hides another.
func TestResolveFindings(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(f *fixture)
		want    []string
		relaxed bool // the relaxed policy accepts it
		nearest string
	}{
		{"served mount missing", func(f *fixture) { f.remove("/data") }, []string{"E_ENV_MISSING /data"}, false, ""},
		{"internal mount missing", func(f *fixture) { f.remove("/queue") }, []string{"E_ENV_MISSING /queue"}, false, ""},
		{"renamed", func(f *fixture) { f.mount("/scratch").Destination = "/scratchy" },
			[]string{"E_ENV_MISSING /scratch", "E_ENV_LEFT_OVER /scratchy"}, false, "/scratchy"},
		{"left over", func(f *fixture) {
			f.spec.Mounts = append(f.spec.Mounts, specs.Mount{Destination: "/more", Type: "tmpfs"})
		},
			[]string{"E_ENV_LEFT_OVER /more"}, true, ""},
		{"type", func(f *fixture) { f.mount("/queue").Type = "tmpfs" }, []string{"E_ENV_TYPE /queue"}, false, ""},
		{"served became internal", func(f *fixture) { *f.mount("/data") = specs.Mount{Destination: "/data", Type: "tmpfs"} },
			[]string{"E_ENV_TYPE /data"}, false, ""},
		{"became writable", func(f *fixture) { f.mount("/conf").Options = nil }, []string{"E_ENV_BECAME_WRITABLE /conf"}, false, ""},
		{"root became read-only", func(f *fixture) { f.spec.Root.Readonly = true }, []string{"E_ENV_BECAME_READ_ONLY /"}, false, ""},
		{"flag", func(f *fixture) { f.mount("/outer").Options = nil }, []string{"E_ENV_OPTIONS /outer"}, false, ""},
		{"data", func(f *fixture) { f.mount("/scratch").Options[0] = "size=2m" }, []string{"E_ENV_OPTIONS /scratch"}, false, ""},
		{"data in another order", func(f *fixture) { slices.Reverse(f.mount("/scratch").Options) }, []string{}, true, ""},
		{"source changed", func(f *fixture) { f.mount("/outer").Source = filepath.Join(f.bundle, "data") },
			[]string{"E_ENV_SOURCE_CHANGED /outer"}, true, ""},
		{"source missing", func(f *fixture) { f.mount("/data").Source = "dat" }, []string{"E_ENV_SOURCE_MISSING /data"}, false, "BUNDLE/data"},
		{"source kind", func(f *fixture) { f.mount("/data").Source = "file" }, []string{"E_ENV_SOURCE_KIND /data"}, false, ""},
		{"file became directory", func(f *fixture) { f.mount("/conf").Source = "data" }, []string{"E_ENV_SOURCE_KIND /conf"}, false, ""},
		{"source of the system", func(f *fixture) { f.mount("/outer").Source = "/proc" }, []string{"E_ENV_SOURCE_UNUSABLE /outer"}, false, ""},
		{"no source", func(f *fixture) { f.mount("/outer").Source = "" }, []string{"E_ENV_SOURCE_UNUSABLE /outer"}, false, ""},
		{"root missing", func(f *fixture) { f.spec.Root.Path = "gone" }, []string{"E_ENV_SOURCE_MISSING /"}, false, ""},
		{"no root", func(f *fixture) { f.spec.Root = nil }, []string{"E_ENV_SOURCE_UNUSABLE /"}, false, ""},
		{"content", func(f *fixture) { f.write("rootfs/new") }, []string{"E_ENV_CONTENT /"}, true, ""},
		{"content cannot be told", func(f *fixture) { f.opts.Fingerprint = func(string) (string, error) { return "", ErrTooManyFiles } },
			[]string{"E_ENV_CONTENT /"}, true, ""},
		{"bundle does not compile", func(f *fixture) { f.mount("/queue").Type = "ext9" }, []string{"E_MOUNT_UNKNOWN_TYPE /queue"}, false, ""},
		{"option does not compile", func(f *fixture) { f.mount("/scratch").Options[0] = "size=x" }, []string{"E_MOUNT_OPTION_VALUE /scratch"}, false, ""},
		{"mapping unused", func(f *fixture) { f.opts.Map = map[string]string{"/dat": f.outer} }, []string{"E_ENV_MAP_UNUSED /dat"}, false, "/data"},
		{"mapping of an internal mount", func(f *fixture) { f.opts.Map = map[string]string{"/queue": f.outer} },
			[]string{"E_ENV_MAP_UNUSED /queue"}, false, ""},
		{"mapped to nothing", func(f *fixture) { f.opts.Map = map[string]string{"/data": f.outer + "/gone"} },
			[]string{"E_ENV_SOURCE_MISSING /data"}, false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			test.change(f)
			_, findings := f.resolve()
			if diff := cmp.Diff(test.want, summary(findings)); diff != "" {
				t.Fatalf("findings (-want +got):\n%s", diff)
			}
			if len(findings) == 0 {
				return
			}
			if !findings.Refuses(PolicyStrict) || !findings.Refuses("") || findings.Refuses(PolicyRelaxed) == test.relaxed {
				t.Errorf("refuses: strict %v, default %v, relaxed %v", findings.Refuses(PolicyStrict), findings.Refuses(""), findings.Refuses(PolicyRelaxed))
			}
			first := findings[0]
			if first.Remedy == "" || first.Saved == "" && first.Target == "" || first.Container != container && first.Code != CodeMapUnused {
				t.Errorf("finding says too little: %+v", first)
			}
			if got := strings.ReplaceAll(first.Nearest, f.bundle, "BUNDLE"); got != test.nearest {
				t.Errorf("nearest is %q, want %q", got, test.nearest)
			}
			_, known := Codes()[first.Code]
			_, compiler := mounts.Codes()[mounts.Code(first.Code)]
			if !known && !compiler {
				t.Errorf("code %s is not documented", first.Code)
			}
		})
	}
}

func TestSevenMistakesAreSevenFindings(t *testing.T) {
	f := newFixture(t)
	f.spec.Root.Readonly = true
	f.write("rootfs/new")
	f.mount("/data").Source = "gone"
	f.mount("/conf").Source = "data"
	f.mount("/outer").Source = t.TempDir()
	f.mount("/scratch").Options = nil
	f.mount("/queue").Type = "ext9"
	_, findings := f.resolve()
	want := []string{
		"E_MOUNT_UNKNOWN_TYPE /queue", "E_ENV_BECAME_READ_ONLY /", "E_ENV_CONTENT /", "E_ENV_SOURCE_MISSING /data", "E_ENV_SOURCE_KIND /conf",
		"E_ENV_SOURCE_CHANGED /outer", "E_ENV_OPTIONS /scratch",
	}
	if diff := cmp.Diff(want, summary(findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	var refused *RefusedError
	if err := findings.Err(PolicyRelaxed); !errors.As(err, &refused) || len(refused.Findings) != 5 || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("under the relaxed policy: %v", err)
	}
}

// What lies under a saved overlay is never written, whatever the bundle says.
func TestOverlayIsServedReadOnly(t *testing.T) {
	f := newFixture(t)
	f.saved[container][mounts.FilesystemGofer][0].Overlay = true
	resolution, findings := f.resolve()
	if served := resolution.Gofer(container); len(findings) != 0 || !served[0].ReadOnly || served[1].ReadOnly {
		t.Errorf("findings %v, served %+v", findings, served)
	}
}

// A mapping stands for whatever the bundle says, or does not say, about a mount.
func TestMapping(t *testing.T) {
	for name, change := range map[string]func(f *fixture){
		"missing":        func(f *fixture) { f.remove("/data") },
		"another type":   func(f *fixture) { *f.mount("/data") = specs.Mount{Destination: "/data", Type: "tmpfs"} },
		"source missing": func(f *fixture) { f.mount("/data").Source = "gone" },
		"source changed": func(f *fixture) { f.mount("/data").Source = f.outer },
		"all right":      func(*fixture) {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			change(f)
			elsewhere := t.TempDir()
			f.opts.Map = map[string]string{"/data": elsewhere}
			resolution, findings := f.resolve()
			if len(findings) != 0 {
				t.Errorf("findings: %v", findings)
			}
			if b := resolution.Gofer(container)[1]; b.Source != elsewhere || !b.Mapped || !b.Recursive {
				t.Errorf("backing is %+v", b)
			}
		})
	}
}

func TestContainers(t *testing.T) {
	f := newFixture(t)
	f.saved["second"] = Sources{mounts.FilesystemTmpfs: {{Device: "none", Destination: "/x"}}}
	_, findings := f.resolve()
	if diff := cmp.Diff([]string{"E_ENV_CONTAINER_MISSING /"}, summary(findings)); diff != "" || !findings.Refuses(PolicyRelaxed) {
		t.Errorf("a saved container without bundle (-want +got):\n%s", diff)
	}
	_, findings = Resolve(Environment{}, Environment{"extra": {}}, Options{})
	if diff := cmp.Diff([]string{"E_ENV_CONTAINER_EXTRA /"}, summary(findings)); diff != "" || findings.Refuses(PolicyRelaxed) || !findings.Refuses("") {
		t.Errorf("a bundle without saved container (-want +got):\n%s", diff)
	}
}

// Whatever field of a saved environment changes, a strict restore refuses: it
// does not parse any more, or there is a finding.
func TestEveryFieldCounts(t *testing.T) {
	mutate := func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		default:
			t.Fatalf("a field of kind %s: teach this test to change it", v.Kind())
		}
	}
	refuses := func(f *fixture) bool {
		data, err := json.Marshal(f.saved)
		if err != nil {
			t.Fatal(err)
		}
		if f.saved, err = Parse(data); err != nil {
			return true
		}
		_, findings := f.resolve()
		return findings.Refuses(PolicyStrict)
	}
	for _, filesystem := range []string{"9p", "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "mqueue"} {
		for i := range newFixture(t).saved[container][filesystem] {
			for _, field := range fields(reflect.TypeFor[Entry](), nil) {
				f := newFixture(t)
				entry := &f.saved[container][filesystem][i]
				name := reflect.TypeFor[Entry]().FieldByIndex(field).Name
				onHost := filesystem == mounts.FilesystemGofer
				switch {
				case name == "Overlay":
					continue // only the saved side knows it
				case !onHost && (name == "IsFile" || name == "Source" || name == "Fingerprint"):
					continue // nothing on this host backs it
				}
				mutate(reflect.ValueOf(entry).Elem().FieldByIndex(field))
				if !refuses(f) {
					t.Errorf("%s mount %d: a changed %s is not found", filesystem, i, name)
				}
			}
			f := newFixture(t)
			f.saved[container][filesystem] = slices.Delete(f.saved[container][filesystem], i, i+1)
			if !refuses(f) {
				t.Errorf("%s mount %d: its absence is not found", filesystem, i)
			}
		}
		f := newFixture(t)
		f.saved[container]["other"] = f.saved[container][filesystem]
		delete(f.saved[container], filesystem)
		if !refuses(f) {
			t.Errorf("another name for %s is not found", filesystem)
		}
	}
	f := newFixture(t)
	f.saved["other"] = f.saved[container]
	delete(f.saved, container)
	if !refuses(f) {
		t.Error("another name for the container is not found")
	}
	if refuses(newFixture(t)) {
		t.Error("nothing is changed, and it is refused")
	}
}

// fields returns the index of every exported field that holds a value itself.
func fields(typ reflect.Type, parent []int) [][]int {
	var all [][]int
	for i := range typ.NumField() {
		field, index := typ.Field(i), append(slices.Clone(parent), i)
		switch {
		case !field.IsExported():
		case field.Type.Kind() == reflect.Struct:
			all = append(all, fields(field.Type, index)...)
		default:
			all = append(all, index)
		}
	}
	return all
}
