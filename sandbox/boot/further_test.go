package boot

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// What a new container comes with is counted before it is taken apart.
func TestCheckCreate(t *testing.T) {
	good := func() *control.CreateArgs {
		return &control.CreateArgs{
			FilePayload: urpc.FilePayload{Files: make([]*os.File, 1+3+2+1)}, Name: "web", Spec: &specs.Spec{Process: &specs.Process{}},
			Mounts:  &mounts.List{Mounts: []mounts.Mount{{Destination: "/", Filesystem: mounts.FilesystemGofer}, {Destination: "/tmp"}}},
			Streams: 3, Preserved: 2,
		}
	}
	if err := checkCreate(good()); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*control.CreateArgs){
		"no name":           func(a *control.CreateArgs) { a.Name = "" },
		"no spec":           func(a *control.CreateArgs) { a.Spec = nil },
		"no process":        func(a *control.CreateArgs) { a.Spec.Process = nil },
		"no mounts":         func(a *control.CreateArgs) { a.Mounts = nil },
		"too few files":     func(a *control.CreateArgs) { a.Files = a.Files[1:] },
		"no files":          func(a *control.CreateArgs) { a.Files = nil },
		"streams":           func(a *control.CreateArgs) { a.Streams, a.Preserved = 2, 3 },
		"terminal":          func(a *control.CreateArgs) { a.Spec.Process.Terminal = true },
		"less than nothing": func(a *control.CreateArgs) { a.Preserved = -1; a.Files = a.Files[3:] },
		"too many":          func(a *control.CreateArgs) { a.Preserved = 1 << 62 },
	} {
		a := good()
		edit(a)
		if err := checkCreate(a); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestContainerStatus(t *testing.T) {
	first, further := newContainer(RootContainer, nil), newContainer("web", nil)
	want := func(c *container, sandbox, status Phase) {
		t.Helper()
		if got := c.status(sandbox); got != status {
			t.Errorf("%s is %s in a sandbox that is %s, want %s", c.name, got, sandbox, status)
		}
	}
	want(first, PhaseCreated, PhaseCreated)
	want(further, PhaseRunning, PhaseCreated)
	want(further, PhaseStopped, PhaseStopped)
	further.started.Store(true)
	want(further, PhaseRunning, PhaseRunning)
	want(further, PhasePaused, PhasePaused)
	close(further.ended)
	want(further, PhasePaused, PhaseStopped)
	want(first, PhasePaused, PhasePaused)
}

// Containers are found by name, and a name is taken once.
func TestContainersByName(t *testing.T) {
	s := &Sandbox{first: newContainer(RootContainer, nil)}
	for _, name := range []string{"", RootContainer} {
		if c, err := s.container(name); err != nil || c != s.first {
			t.Errorf("%q is %v, %v", name, c, err)
		}
	}
	web := newContainer("web", nil)
	if err := s.add(web); err != nil {
		t.Fatal(err)
	}
	if err := s.add(newContainer("web", nil)); err == nil {
		t.Error("two of a name are added")
	}
	if err := s.add(newContainer(RootContainer, nil)); err == nil {
		t.Error("a second first container is added")
	}
	s.remember(processKey{"web", 2}, execed{})
	s.remember(processKey{RootContainer, 2}, execed{})
	s.remove(web)
	if _, err := s.container("web"); err == nil || len(s.execs) != 1 {
		t.Errorf("after the removal: %v, execs %v", err, s.execs)
	}
}

// A container that has gone lingers while the kernel has a socket to its gofer.
func TestLingering(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := &Sandbox{first: newContainer(RootContainer, nil)}
	web := newContainer("web", nil)
	if err := web.serve([]int{int(r.Fd())}); err != nil {
		t.Fatal(err)
	}
	if err := s.add(web); err != nil {
		t.Fatal(err)
	}
	if names := s.Lingering(); len(names) != 0 {
		t.Errorf("a living one lingers: %v", names)
	}
	close(web.ended)
	s.remove(web)
	if names := s.Lingering(); len(names) != 1 || names[0] != "web" {
		t.Errorf("%v linger, want web", names)
	}
	if err := s.checkName("web"); err == nil {
		t.Error("its name is free")
	}
	r.Close()
	if names := s.Lingering(); len(names) != 0 {
		t.Errorf("%v linger, want none", names)
	}
	if err := s.checkName("web"); err != nil {
		t.Error(err)
	}
}
