package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cgroup"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

func annotated(annotations ...string) *specs.Spec {
	spec := &specs.Spec{Process: &specs.Process{}, Annotations: make(map[string]string)}
	for i := 0; i < len(annotations); i += 2 {
		spec.Annotations[annotations[i]] = annotations[i+1]
	}
	return spec
}

func TestSamePod(t *testing.T) {
	const containerd, crio = "io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"
	for _, c := range []struct {
		container, sandbox *specs.Spec
		want               bool
	}{
		{annotated(), annotated(), true},
		{annotated(), annotated(crio, "1"), true}, // made by hand
		{annotated(crio, "1"), annotated(crio, "1"), true},
		{annotated(containerd, "1"), annotated(containerd, "1"), true},
		{annotated(crio, "2"), annotated(crio, "1"), false},
		{annotated(containerd, "1", crio, "2"), annotated(containerd, "1", crio, "1"), false},
		{annotated(crio, "2"), annotated(), false},
	} {
		if got := samePod(c.container.Annotations, c.sandbox.Annotations); got != c.want {
			t.Errorf("container %v, sandbox %v: %v, want %v", c.container.Annotations, c.sandbox.Annotations, got, c.want)
		}
	}
}

func TestSandboxOf(t *testing.T) {
	for _, c := range []struct {
		spec *specs.Spec
		want string
	}{
		{&specs.Spec{}, ""},
		{annotated("io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri.sandbox-id", "s"), ""},
		{annotated("io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "s"), "s"},
		{annotated("io.kubernetes.cri-o.ContainerType", "container", "io.kubernetes.cri-o.SandboxID", "o"), "o"},
		{annotated("io.kubernetes.cri-o.ContainerType", "sandbox", "io.kubernetes.cri-o.SandboxID", "o"), ""},
		{annotated("io.kubernetes.cri.sandbox-id", "s"), ""},
	} {
		if got := SandboxOf(c.spec); got != c.want {
			t.Errorf("%v: %q, want %q", c.spec.Annotations, got, c.want)
		}
	}
}

func TestPickName(t *testing.T) {
	named := func(names ...string) (all []*Sandbox) {
		for _, n := range names {
			all = append(all, &Sandbox{Record: Record{Name: n}})
		}
		return all
	}
	long := strings.Repeat("x", maxContainerName)
	for _, c := range []struct {
		spec  *specs.Spec
		id    string
		taken []*Sandbox
		want  string
	}{
		{annotated(), "1234", nil, "1234"},
		{annotated("io.kubernetes.cri.container-name", "web"), "1234", nil, "web"},
		{annotated("io.kubernetes.container.name", "web"), "1234", nil, "web"},
		{annotated("io.kubernetes.cri.container-name", "web"), "1234", named("web", "web.2"), "web.3"},
		{annotated("io.kubernetes.cri.container-name", "no name"), "1234", nil, "1234"},
		{annotated(), "root", nil, "root.2"},
		{annotated(), long, named(long), long[:maxContainerName-2] + ".2"},
	} {
		if got := pickName(c.spec, c.id, c.taken); got != c.want || !idPattern.MatchString(got) {
			t.Errorf("%v, %q: %q, want %q", c.spec.Annotations, c.id, got, c.want)
		}
	}
}

// What the first container says of shared mounts holds for those that mount them, unless they say it themselves.
func TestWithShared(t *testing.T) {
	first := map[string]string{
		mounts.SharedPrefix + "a.source": "/pod/a", mounts.SharedPrefix + "a.type": "tmpfs", mounts.SharedPrefix + "a.share": "pod",
		mounts.SharedPrefix + "b.source": "/pod/b", mounts.SharedPrefix + "b.type": "tmpfs", "other": "x",
	}
	own := annotated(mounts.SharedPrefix+"a.share", "container", "mine", "y")
	own.Mounts = []specs.Mount{{Destination: "/a", Source: "/pod/a"}}
	want := map[string]string{
		"mine": "y", mounts.SharedPrefix + "a.source": "/pod/a", mounts.SharedPrefix + "a.type": "tmpfs", mounts.SharedPrefix + "a.share": "container",
	}
	if diff := cmp.Diff(want, WithShared(own, first).Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if len(own.Annotations) != 2 {
		t.Errorf("the container's own became %v", own.Annotations)
	}
	bare := &specs.Spec{Mounts: own.Mounts}
	if got := WithShared(bare, first).Annotations; len(got) != 3 {
		t.Errorf("a container without annotations gets %v", got)
	}
}

func TestSharedMountsMustAgree(t *testing.T) {
	with := func(data string, share mounts.Share) *mounts.List {
		return &mounts.List{Mounts: []mounts.Mount{{
			Destination: "/a", Filesystem: mounts.FilesystemTmpfs, Data: data, Shared: &mounts.SharedHint{Name: "a", Share: share},
		}}}
	}
	for _, c := range []struct {
		mine, theirs *mounts.List
		ok           bool
	}{
		{with("size=1m", mounts.SharePod), with("size=1m", mounts.SharePod), true},
		{with("size=1m", mounts.SharePod), with("size=2m", mounts.SharePod), false},
		{with("size=1m", mounts.ShareContainer), with("size=2m", mounts.SharePod), true},
	} {
		creation := &creation{
			record: Record{Mounts: c.mine}, in: &Sandbox{Record: Record{Mounts: &mounts.List{}}},
			siblings: []*Sandbox{{Record: Record{ID: "other", Mounts: c.theirs}}},
		}
		if err := creation.checkShared(t.Context()); (err == nil) != c.ok {
			t.Errorf("%+v beside %+v: %v", c.mine.Mounts[0], c.theirs.Mounts[0], err)
		}
	}
}

// namespaces makes a specification with namespaces, as type=path.
func namespaces(list ...string) *specs.Spec {
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	for _, ns := range list {
		kind, path, _ := strings.Cut(ns, "=")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
	}
	return spec
}

func TestPIDNamespaceOf(t *testing.T) {
	sibling := &Sandbox{dir: t.TempDir(), Record: Record{ID: "web", SandboxID: "pod", Name: "web", StandIn: Process{PID: 20}}}
	if err := writeFile(filepath.Join(sibling.dir, specName), namespaces("pid=/run/pids")); err != nil {
		t.Fatal(err)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	live := &Sandbox{dir: t.TempDir(), Record: Record{ID: "web2", SandboxID: "pod", Name: "web2", StandIn: Process{PID: 21}, Sandbox: self}}
	if err := writeFile(filepath.Join(live.dir, specName), namespaces("pid=/run/pids-too")); err != nil {
		t.Fatal(err)
	}
	before := &Sandbox{dir: t.TempDir(), Record: Record{ID: "old", SandboxID: "pod", Name: "old", StandIn: Process{PID: 22}}}
	if err := writeFile(filepath.Join(before.dir, specName), namespaces("pid=/proc/21/ns/pid")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec  *specs.Spec
		want  string
		warns bool
	}{
		{&specs.Spec{}, "root", false},
		{namespaces("network"), "root", false},
		{namespaces("pid"), "", false},
		{namespaces("pid=/proc/10/ns/pid"), "root", false},
		{namespaces("pid=/proc/20/ns/pid"), "web", false},
		{namespaces("pid=/run/pids"), "web", false},
		{namespaces("pid=/run/pids-too"), "web2", false},
		{namespaces("pid=/proc/21/ns/pid"), "web2", false}, // and not old, which has ended
		{namespaces("pid=/proc/30/ns/pid"), "", true},
	} {
		creation := &creation{
			opts: CreateOptions{Bundle: &Bundle{Spec: c.spec}}, siblings: []*Sandbox{before, sibling, live},
			in: &Sandbox{Record: Record{ID: "pod", Sandbox: Process{PID: 10}}},
		}
		got, err := creation.pidNamespaceOf(t.Context())
		if err != nil || got != c.want || (len(creation.warnings) > 0) != c.warns {
			t.Errorf("%+v: %q, %v, warnings %q; want %q", c.spec.Linux, got, err, creation.warnings, c.want)
		}
	}
}

func TestFurtherNotOffered(t *testing.T) {
	in := &Sandbox{Record: Record{Sandbox: Process{PID: 10}, NetworkNamespace: "/run/netns/pod"}}
	inSpec := namespaces("ipc=/run/ipc")
	inSpec.Hostname = "pod"
	score := 100
	for _, c := range []struct {
		edit func(*specs.Spec)
		want string // begins the one warning
	}{
		{func(*specs.Spec) {}, ""},
		{func(s *specs.Spec) { s.Hostname = "web" }, `hostname "web"`},
		{func(s *specs.Spec) { s.Process.OOMScoreAdj = &score }, "process.oomScoreAdj"},
		{func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{} }, "linux.resources"},
		{func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/run/netns/other" }, "linux.namespaces: network namespace /run/netns/other"},
	} {
		spec := namespaces("network=/run/netns/pod", "uts=/proc/10/ns/uts", "ipc=/run/ipc", "mount", "pid=/elsewhere")
		spec.Hostname = "pod"
		c.edit(spec)
		got := furtherNotOffered(spec, inSpec, in)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// Nobody who writes the bundle of a container that is restored can know the process of its sandbox, which has none yet.
func TestFurtherWarningsOfARestore(t *testing.T) {
	inSpec := namespaces("ipc=/run/ipc")
	inSpec.Hostname = "pod"
	spec := namespaces("network=/proc/10/ns/net", "uts=/proc/10/ns/uts", "ipc=/run/other", "pid")
	spec.Hostname = "pod"
	spec.Linux.Resources = &specs.LinuxResources{}
	c := &creation{opts: CreateOptions{Bundle: &Bundle{Spec: inSpec}}, record: Record{NetworkNamespace: "/run/netns/pod"}}
	c.warnFurther(&FurtherRestore{Name: "web", Bundle: &Bundle{Spec: spec, Warnings: []string{namespaceWarning + "of a sandbox of its own", "seccomp"}}})
	for i, want := range []string{"seccomp", "linux.resources", "linux.namespaces: ipc namespace /run/other"} {
		if len(c.warnings) != 3 || !strings.HasPrefix(c.warnings[i], `container "web": `+want) {
			t.Fatalf("warnings are %q, want one that begins with %q", c.warnings, want)
		}
	}
}

// A sandbox's containers are those that were made in its process, and not in another that had its ID.
func TestContainersOfASandbox(t *testing.T) {
	root := Root(t.TempDir())
	write := func(r Record) *Sandbox {
		dir, err := root.reserve(r.ID)
		if err != nil {
			t.Fatal(err)
		}
		s := &Sandbox{Record: r, dir: dir}
		if err := s.save(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	process := Process{PID: 1 << 30, StartTicks: 5} // there is none
	pod := write(Record{ID: "pod", Sandbox: process})
	web := write(Record{ID: "web", SandboxID: "pod", Name: "w", Sandbox: process})
	write(Record{ID: "old", SandboxID: "pod", Name: "w", Sandbox: Process{PID: 1 << 30, StartTicks: 4}})
	write(Record{ID: "alone", Sandbox: Process{PID: 1 << 30}})
	all, err := pod.Containers()
	if err != nil || !slices.EqualFunc(all, []string{"web"}, func(s *Sandbox, id string) bool { return s.ID == id }) {
		t.Errorf("containers are %v, %v", all, err)
	}
	if err := web.NeedWhole("checkpoint"); err == nil || !strings.Contains(err.Error(), `"pod"`) {
		t.Errorf("one container as a whole sandbox: %v", err)
	}
	if got, want := web.processDir(), pod.dir; got != want || pod.processDir() != want {
		t.Errorf("control socket is in %s, want %s", got, want)
	}
	// Its sandbox has ended: it is stopped, as by SIGKILL, and can be deleted.
	if status := web.Status(t.Context()); status != specs.StateStopped {
		t.Errorf("it is %s", status)
	}
	if status, err := web.Wait(t.Context()); status != 137 || err != nil {
		t.Errorf("exit status %d, %v", status, err)
	}
	if err := os.WriteFile(filepath.Join(web.dir, specName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := web.Delete(t.Context(), false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(web.dir); err == nil {
		t.Errorf("%s is left", web.dir)
	}
}

// The cgroup of a further container may be below the first one's, or another's: all go with the whole.
func TestDeleteWholeRemovesNestedCgroups(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: cgroups need root")
	}
	root := Root(t.TempDir())
	process := Process{PID: 1 << 30, StartTicks: 5} // there is none
	top := fmt.Sprintf("/sbxmigrate-test-%d", os.Getpid())
	write := func(r Record, path string) *Sandbox {
		dir, err := root.reserve(r.ID)
		if err != nil {
			t.Fatal(err)
		}
		group, err := openCgroup(path, r.ID)
		if err == nil {
			err = group.Install(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { group.Uninstall() })
		r.Sandbox, r.CgroupPath, r.Cgroup = process, path, &cgroup.CgroupJSON{Cgroup: group}
		s := &Sandbox{Record: r, dir: dir}
		if err := errors.Join(s.save(), writeFile(filepath.Join(dir, specName), &specs.Spec{})); err != nil {
			t.Fatal(err)
		}
		return s
	}
	pod := write(Record{ID: "pod"}, top)
	write(Record{ID: "a", SandboxID: "pod", Name: "a"}, top+"/upper")
	write(Record{ID: "b", SandboxID: "pod", Name: "b"}, top+"/upper/lower")
	if err := pod.DeleteWhole(t.Context()); err != nil {
		t.Error(err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + top, "/sys/fs/cgroup/*" + top} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
	}
	if all, err := root.List(); err != nil || len(all) > 0 {
		t.Errorf("%d containers are left: %v", len(all), err)
	}
}

// A container that is being restored has no process that could be sent a signal, and nobody who could be asked to.
func TestSignalOfAContainerBeingRestored(t *testing.T) {
	maker, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	root := Root(t.TempDir())
	for _, r := range []Record{{ID: "pod"}, {ID: "web", SandboxID: "pod", Name: "web"}} {
		r.Creating, r.Maker = true, maker
		s := &Sandbox{Record: r, dir: filepath.Join(string(root), r.ID)}
		for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			if err := s.Signal(t.Context(), signal, false); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "container not running") {
				t.Errorf("%v to %s: %v", signal, r.ID, err)
			}
		}
	}
}

// Whoever waits for a sandbox that another command is changing can be interrupted, and then stands in nobody's way.
func TestLockEndsWithItsContext(t *testing.T) {
	s := &Sandbox{dir: t.TempDir()}
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.lock(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a wait that was interrupted ends with %v", err)
	}
	unlock()
	unlock, err = s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
