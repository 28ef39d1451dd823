package mounts

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newBundle makes a bundle with an empty rootfs, a directory data and a file.
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

func specOf(list ...specs.Mount) *specs.Spec {
	return &specs.Spec{Root: &specs.Root{Path: "rootfs"}, Mounts: list}
}

func compile(t *testing.T, spec *specs.Spec, opts Options) *List {
	t.Helper()
	list, err := Compile(spec, opts)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return list
}

func destinations(list *List) string {
	var all []string
	for _, m := range list.Mounts {
		all = append(all, m.Filesystem+":"+m.Destination)
	}
	return strings.Join(all, " ")
}

func find(t *testing.T, list *List, destination string) Mount {
	t.Helper()
	for _, m := range list.Mounts {
		if m.Destination == destination {
			return m
		}
	}
	t.Fatalf("no mount on %q in %s", destination, destinations(list))
	return Mount{}
}

func warningCodes(list *List) string {
	var all []string
	for _, w := range list.Warnings {
		all = append(all, string(w.Code)+":"+w.Mount)
	}
	return strings.Join(all, " ")
}

func TestCompileOrder(t *testing.T) {
	const mandatory = "9p:/ proc:/proc sysfs:/sys devtmpfs:/dev devpts:/dev/pts"
	for _, test := range []struct {
		name   string
		mounts []specs.Mount
		want   string
	}{
		{"nothing asked for", nil, mandatory + " tmpfs:/tmp"},
		{"docker's own", []specs.Mount{
			{Destination: "/proc", Type: "proc"}, {Destination: "/dev", Type: "tmpfs"}, {Destination: "/dev/pts", Type: "devpts"},
			{Destination: "/dev/shm", Type: "tmpfs"}, {Destination: "/dev/mqueue", Type: "mqueue"}, {Destination: "/sys", Type: "sysfs"},
		}, mandatory + " tmpfs:/dev/shm mqueue:/dev/mqueue tmpfs:/tmp"},
		{"another type takes the place", []specs.Mount{{Destination: "/a", Type: "tmpfs"}, {Destination: "/proc", Type: "tmpfs"}},
			"9p:/ sysfs:/sys devtmpfs:/dev devpts:/dev/pts tmpfs:/a tmpfs:/proc tmpfs:/tmp"},
		{"parent stands first", []specs.Mount{
			{Destination: "/a/b/c", Type: "tmpfs"}, {Destination: "/z", Type: "tmpfs"}, {Destination: "/a", Type: "tmpfs"}, {Destination: "/a/b", Type: "tmpfs"},
		}, mandatory + " tmpfs:/a tmpfs:/a/b tmpfs:/a/b/c tmpfs:/z tmpfs:/tmp"},
		{"a name's prefix is no parent", []specs.Mount{{Destination: "/ab", Type: "tmpfs"}, {Destination: "/a", Type: "tmpfs"}},
			mandatory + " tmpfs:/ab tmpfs:/a tmpfs:/tmp"},
		{"cleaned", []specs.Mount{{Destination: "//a/../b/./c/", Type: "tmpfs"}}, mandatory + " tmpfs:/b/c tmpfs:/tmp"},
		{"own tmp", []specs.Mount{{Destination: "/tmp", Type: "tmpfs"}}, mandatory + " tmpfs:/tmp"},
		{"below tmp", []specs.Mount{{Destination: "/tmp/x", Type: "tmpfs"}}, mandatory + " tmpfs:/tmp/x"},
		{"none is sysfs", []specs.Mount{{Destination: "/s", Type: "none"}}, mandatory + " sysfs:/s tmpfs:/tmp"},
		{"none with bind", []specs.Mount{{Destination: "/s", Type: "none", Source: "data", Options: []string{"rbind"}}}, mandatory + " 9p:/s tmpfs:/tmp"},
		{"cgroup", []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup"}}, mandatory + " tmpfs:/sys/fs/cgroup" +
			" cgroup:/sys/fs/cgroup/cpu cgroup:/sys/fs/cgroup/cpuacct cgroup:/sys/fs/cgroup/cpuset cgroup:/sys/fs/cgroup/devices" +
			" cgroup:/sys/fs/cgroup/job cgroup:/sys/fs/cgroup/memory cgroup:/sys/fs/cgroup/pids tmpfs:/tmp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := compile(t, specOf(test.mounts...), Options{Bundle: newBundle(t)})
			if got := destinations(list); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestCompileMergesMandatory(t *testing.T) {
	list := compile(t, specOf(
		specs.Mount{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Options: []string{"noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}},
	), Options{Bundle: newBundle(t)})
	if m := find(t, list, "/dev"); m.Filesystem != FilesystemDevtmpfs || m.Flags != (Flags{NoSUID: true}) || m.Data != "" || m.Origin != OriginMandatory {
		t.Errorf("/dev is %+v", m)
	}
	if m := find(t, list, "/dev/pts"); m.Flags != (Flags{NoExec: true}) || m.Data != "newinstance,ptmxmode=0666,mode=0620" {
		t.Errorf("/dev/pts is %+v", m)
	}
	if m := find(t, list, "/sys"); m.Filesystem != FilesystemSysfs || !m.Flags.ReadOnly || m.Source != "" {
		t.Errorf("/sys is %+v", m)
	}
	if got, want := warningCodes(list), "W_MOUNT_NOT_MERGED:/dev W_MOUNT_NOT_MERGED:/sys"; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestCompileSources(t *testing.T) {
	bundle, elsewhere := newBundle(t), t.TempDir()
	if err := unix.Mkfifo(filepath.Join(bundle, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := specOf(
		specs.Mount{Destination: "/file", Type: "bind", Source: "file", Options: []string{"ro", "rbind"}},
		specs.Mount{Destination: "/dir", Type: "bind", Source: filepath.Join(bundle, "data")},
		specs.Mount{Destination: "/fifo", Type: "bind", Source: "fifo"},
		specs.Mount{Destination: "/out", Type: "bind", Source: elsewhere},
	)
	served := compile(t, spec, Options{Bundle: bundle, Overlay: OverlayAll}).GoferMounts()
	want := []Mount{
		{Destination: "/", Device: "9pfs-/", Filesystem: "9p", Source: filepath.Join(bundle, "rootfs"), Overlay: true, Origin: OriginRoot},
		{Destination: "/file", Device: "9pfs-/file", Filesystem: "9p", Source: filepath.Join(bundle, "file"), SourceIsFile: true, Recursive: true,
			Flags: Flags{ReadOnly: true}, Origin: OriginSpec},
		{Destination: "/dir", Device: "9pfs-/dir", Filesystem: "9p", Source: filepath.Join(bundle, "data"), Overlay: true, Origin: OriginSpec},
		{Destination: "/fifo", Device: "9pfs-/fifo", Filesystem: "9p", Source: filepath.Join(bundle, "fifo"), SourceIsFile: true, Origin: OriginSpec},
		{Destination: "/out", Device: "9pfs-/out", Filesystem: "9p", Source: elsewhere, SourceExternal: true, Overlay: true, Origin: OriginSpec},
	}
	if diff := cmp.Diff(want, served); diff != "" {
		t.Errorf("served mounts (-want +got):\n%s", diff)
	}
	for _, m := range served {
		if m.ServedReadOnly() != (m.Destination != "/fifo") {
			t.Errorf("%s is served read-only: %v", m.Destination, m.ServedReadOnly())
		}
	}
	served = compile(t, spec, Options{Bundle: bundle, Overlay: OverlayRoot}).GoferMounts()
	if !served[0].Overlay || served[2].Overlay {
		t.Errorf("overlay root reaches root %v, bind %v", served[0].Overlay, served[2].Overlay)
	}
}

// Every mistake of a specification is reported in one go, and what is right is
// still compiled.
func TestCompileRefuses(t *testing.T) {
	bundle := newBundle(t)
	node := filepath.Join(bundle, "null")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatalf("mknod (needs root): %v", err)
	}
	if err := os.Symlink("/proc", filepath.Join(bundle, "sneaky")); err != nil {
		t.Fatal(err)
	}
	list, err := Compile(specOf(
		specs.Mount{Destination: "relative", Type: "tmpfs"},
		specs.Mount{Destination: "/a", Type: "ext9"},
		specs.Mount{Destination: "/b", Type: "tmpfs", Options: []string{"bind"}},
		specs.Mount{Destination: "/c", Type: "tmpfs"},
		specs.Mount{Destination: "/c/", Type: "proc"},
		specs.Mount{Destination: "/d", Type: "tmpfs", Options: []string{"mode=a=b", "size=lots", "uid=-1"}},
		specs.Mount{Destination: "/e", Type: "bind", Source: "gone"},
		specs.Mount{Destination: "/f", Type: "bind"},
		specs.Mount{Destination: "/g", Type: "bind", Source: node},
		specs.Mount{Destination: "/h", Type: "bind", Source: "/dev/null"},
		specs.Mount{Destination: "/i", Type: "bind", Source: "/sys/kernel"},
		specs.Mount{Destination: "/j", Type: "bind", Source: "sneaky"},
		specs.Mount{Destination: "/k", Type: "bind", Source: "/proc/self/root"},
		specs.Mount{Destination: "/", Type: "tmpfs"},
		specs.Mount{Destination: "/l", Type: ""},
	), Options{Bundle: bundle})
	var got []string
	for _, e := range AsErrors(err) {
		got = append(got, string(e.Code)+" "+e.Mount)
		if e.Found == "" || e.Expected == "" || e.Remedy == "" {
			t.Errorf("error does not say enough: %+v", e)
		}
	}
	want := []string{
		"E_MOUNT_DESTINATION relative", "E_MOUNT_UNKNOWN_TYPE /a", "E_MOUNT_TYPE_CONFLICT /b", "E_MOUNT_DUPLICATE /c",
		"E_MOUNT_OPTION /d", "E_MOUNT_OPTION_VALUE /d", "E_MOUNT_OPTION_VALUE /d", "E_MOUNT_SOURCE_MISSING /e", "E_MOUNT_SOURCE /f",
		"E_MOUNT_SOURCE_KIND /g", "E_MOUNT_SOURCE_SYSTEM /h", "E_MOUNT_SOURCE_SYSTEM /i", "E_MOUNT_SOURCE_SYSTEM /j",
		"E_MOUNT_SOURCE_SYSTEM /k", "E_MOUNT_DUPLICATE /", "E_MOUNT_UNKNOWN_TYPE /l",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Error("the host's own error is not behind the missing source")
	}
	find(t, list, "/c")
	find(t, list, "/e")
}

func TestCompileRootRefused(t *testing.T) {
	bundle := newBundle(t)
	for _, test := range []struct {
		name string
		root *specs.Root
		code Code
	}{
		{"none", nil, CodeRoot},
		{"empty", &specs.Root{}, CodeRoot},
		{"file", &specs.Root{Path: "file"}, CodeRoot},
		{"missing", &specs.Root{Path: "gone"}, CodeSourceMissing},
		{"system", &specs.Root{Path: "/proc"}, CodeSourceSystem},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Compile(&specs.Spec{Root: test.root}, Options{Bundle: bundle})
			if errs := AsErrors(err); len(errs) != 1 || errs[0].Code != test.code || errs[0].Mount != "/" {
				t.Errorf("got %v, want %s", err, test.code)
			}
		})
	}
	if _, err := Compile(nil, Options{}); err == nil {
		t.Error("no specification compiles")
	}
}

func TestCompileLenient(t *testing.T) {
	list := compile(t, specOf(specs.Mount{Destination: "/a", Type: "ext9"}), Options{Bundle: newBundle(t), Lenient: true})
	if got, want := warningCodes(list), "W_MOUNT_TYPE_DROPPED:/a"; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
	if strings.Contains(destinations(list), "/a") {
		t.Error("the mount of unknown type is still there")
	}
}

func TestCompileUnknownOptionIsNamed(t *testing.T) {
	list := compile(t, specOf(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"huge=always", "noatime,uid=7", "uid=8", "rshared"}}),
		Options{Bundle: newBundle(t)})
	if m := find(t, list, "/a"); m.Flags != (Flags{NoATime: true}) || m.Data != "uid=8" {
		t.Errorf("mount is %+v", m)
	}
	if len(list.Warnings) != 2 || !strings.Contains(list.Warnings[0].String(), `"huge=always"`) || !strings.Contains(list.Warnings[1].String(), `"/a"`) {
		t.Errorf("warnings: %v", list.Warnings)
	}
}

func TestCompileCgroups(t *testing.T) {
	const cgroup = "/sys/fs/cgroup"
	list := compile(t, specOf(specs.Mount{Destination: cgroup, Type: "cgroup", Options: []string{"ro", "nosuid", "size=1m"}}), Options{Bundle: newBundle(t)})
	flags := Flags{ReadOnly: true, NoSUID: true}
	if m := find(t, list, cgroup); m.Flags != flags || m.Data != "mode=755" || m.Device != "none" {
		t.Errorf("parent is %+v", m)
	}
	if m := find(t, list, cgroup+"/memory"); m.Flags != flags || m.Data != "memory" || m.Device != "none" {
		t.Errorf("controller is %+v", m)
	}
	if got, want := warningCodes(list), "W_MOUNT_OPTION_IGNORED:"+cgroup; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
	_, err := Compile(specOf(
		specs.Mount{Destination: cgroup, Type: "cgroup"}, specs.Mount{Destination: cgroup + "/cpu", Type: "tmpfs"}), Options{Bundle: newBundle(t)})
	if errs := AsErrors(err); len(errs) != 1 || errs[0].Code != CodeDuplicate {
		t.Errorf("a second mount on a controller: %v", err)
	}
}

func TestTmpDecision(t *testing.T) {
	fill := func(dir string) error { return os.MkdirAll(filepath.Join(dir, "x"), 0o755) }
	for _, test := range []struct {
		name     string
		prepare  func(root string) error
		recorded TmpDecision
		want     TmpDecision
	}{
		{"none", func(string) error { return nil }, "", TmpMounted},
		{"empty", func(root string) error { return os.Mkdir(filepath.Join(root, "tmp"), 0o777) }, "", TmpMounted},
		{"filled", func(root string) error { return fill(filepath.Join(root, "tmp")) }, "", TmpNotMounted},
		{"a file", func(root string) error { return os.WriteFile(filepath.Join(root, "tmp"), nil, 0o644) }, "", TmpNotMounted},
		{"link to filled", func(root string) error {
			return errors.Join(fill(filepath.Join(root, "var/tmp")), os.Symlink("/var/tmp", filepath.Join(root, "tmp")))
		}, "", TmpNotMounted},
		// The host's /usr is not empty, the root has none.
		{"link out", func(root string) error { return os.Symlink("../../../../../../../usr", filepath.Join(root, "tmp")) }, "", TmpMounted},
		{"link to itself", func(root string) error { return os.Symlink("tmp", filepath.Join(root, "tmp")) }, "", TmpNotMounted},
		{"recorded mounted", func(root string) error { return fill(filepath.Join(root, "tmp")) }, TmpMounted, TmpMounted},
		{"recorded not mounted", func(string) error { return nil }, TmpNotMounted, TmpNotMounted},
	} {
		t.Run(test.name, func(t *testing.T) {
			bundle := newBundle(t)
			if err := test.prepare(filepath.Join(bundle, "rootfs")); err != nil {
				t.Fatal(err)
			}
			list := compile(t, specOf(), Options{Bundle: bundle, TmpDecision: test.recorded})
			if list.Tmp != test.want {
				t.Errorf("decision %q, want %q", list.Tmp, test.want)
			}
			if mounted := strings.Contains(destinations(list), "tmpfs:/tmp"); mounted != (test.want == TmpMounted) {
				t.Errorf("mounted %v with decision %q", mounted, list.Tmp)
			}
		})
	}
}

func TestResolveInRoot(t *testing.T) {
	root := t.TempDir()
	for link, target := range map[string]string{"abs": "/dir", "up": "../../../../etc", "chain": "abs/deeper", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for destination, want := range map[string]string{
		"/":             "/",
		"/dir/x":        "/dir/x",
		"/abs/x":        "/dir/x",
		"/up/passwd":    "/etc/passwd",
		"/chain":        "/dir/deeper",
		"/../../x":      "/x",
		"/gone/../here": "/here",
	} {
		got, err := ResolveInRoot(root, destination)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("%s resolves to %q, %v; want %q below the root", destination, got, err, want)
		}
	}
	if got, err := ResolveInRoot(root, "/loop/x"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop resolves to %q, %v", got, err)
	}
}

func TestListIsStableJSON(t *testing.T) {
	bundle := newBundle(t)
	list := compile(t, specOf(specs.Mount{Destination: "/f", Type: "bind", Source: "file", Options: []string{"ro", "wild"}}), Options{Bundle: bundle})
	data, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"mounts":[{"destination":"/","device":"9pfs-/","filesystem":"9p","source":"BUNDLE/rootfs","origin":"root"},` +
		`{"destination":"/proc","device":"none","filesystem":"proc","origin":"mandatory"},` +
		`{"destination":"/sys","device":"none","filesystem":"sysfs","origin":"mandatory"},` +
		`{"destination":"/dev","device":"none","filesystem":"devtmpfs","origin":"mandatory"},` +
		`{"destination":"/dev/pts","device":"none","filesystem":"devpts","origin":"mandatory"},` +
		`{"destination":"/f","device":"9pfs-/f","filesystem":"9p","source":"BUNDLE/file","sourceIsFile":true,"flags":{"readOnly":true},"origin":"spec"},` +
		`{"destination":"/tmp","device":"none","filesystem":"tmpfs","origin":"tmp"}],"tmp":"mounted",` +
		`"warnings":[{"code":"W_MOUNT_OPTION_IGNORED","mount":"/f","message":"option \"wild\" has no effect on 9p in a sandbox"}]}`
	if got := strings.ReplaceAll(string(data), bundle, "BUNDLE"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back List
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, &back); diff != "" {
		t.Errorf("the list changed on its way through JSON (-before +after):\n%s", diff)
	}
}
