package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A container manager's way through a container's life.
func TestLifecycle(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := h.bundle("life", guest.Bundle{
		Root: root,
		Args: []string{"/bin/sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.1; done"},
		Edit: func(spec *specs.Spec) { spec.Annotations = map[string]string{"org.example.fruit": "plum"} },
	})
	h.mustLaunch("life", "create", "--bundle", bundle, "--pid-file", h.path("pid"), "life")
	state := h.sandboxState("life")
	if state.Status != specs.StateCreated || state.ID != "life" || state.Bundle != bundle || state.Pid <= 0 || state.Version == "" ||
		state.Annotations["org.example.fruit"] != "plum" {
		t.Errorf("state after create: %+v", state)
	}
	if pid, err := os.ReadFile(h.path("pid")); err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(state.Pid) {
		t.Errorf("the pid file says %q (%v), state says %d", pid, err, state.Pid)
	}
	h.refuses("delete", "life-that-never-was")
	h.refuses("create", "--bundle", bundle, "life") // the id is taken

	h.must("start", "life")
	h.wantStatus("life", specs.StateRunning)
	h.refuses("start", "life")
	h.refuses("delete", "life") // runs
	if !strings.Contains(h.must("list"), "life") {
		t.Error("list does not show the sandbox")
	}
	if list := h.must("list", "--json"); !json.Valid([]byte(list)) || !strings.Contains(list, `"life"`) {
		t.Errorf("list --json: %s", list)
	}
	if ps := h.must("ps", "--json", "life"); !json.Valid([]byte(ps)) || !strings.Contains(ps, "sh") {
		t.Errorf("ps --json: %s", ps)
	}

	if r := h.try("exec", "life", "/bin/sh", "-c", "echo out; echo err >&2; exit 9"); r.code != 9 || r.stdout != "out\n" || !strings.Contains(r.stderr, "err\n") {
		t.Errorf("exec: %v", r)
	}
	if r := h.finish(strings.NewReader("through stdin"), "exec", "life", "/bin/cat"); r.stdout != "through stdin" {
		t.Errorf("exec with stdin: %v", r)
	}
	h.refuses("exec", "life", "/bin/no-such-program")

	h.must("pause", "life")
	if status := h.sandboxState("life").Status; status != "paused" {
		t.Errorf("state after pause: %s", status)
	}
	h.must("resume", "life")
	h.wantStatus("life", specs.StateRunning)

	h.must("kill", "life", "TERM")
	if r := h.try("wait", "life"); r.code != 42 && strings.TrimSpace(r.stdout) != "42" {
		t.Errorf("wait does not tell exit status 42: %v", r)
	}
	h.wantStatus("life", specs.StateStopped)
	h.must("delete", "life")
	h.refuses("state", "life")
	nothingRuns(t)
	if entries, err := os.ReadDir(h.state); err == nil && len(entries) > 0 {
		t.Errorf("delete leaves %v", entries)
	}
}

// run in the foreground passes stdio and the exit status through.
func TestRunForeground(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := h.bundle("once", guest.Bundle{Root: root, Args: []string{"/bin/sh", "-c", "cat; echo error >&2; exit 3"}})
	r := h.finish(strings.NewReader("some input\n"), "run", "--bundle", bundle, "once")
	if r.code != 3 || r.stdout != "some input\n" || !strings.Contains(r.stderr, "error\n") {
		t.Errorf("run: %v", r)
	}
	h.try("delete", "once")
	nothingRuns(t)
}

// What a bundle asks for and cannot have is an error before anything runs, and leaves nothing behind.
func TestRefusedBundles(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]guest.Bundle{
		"no-program":  {Root: root, Args: []string{"no-such-program"}},
		"no-rootfs":   {Root: root + "/nowhere"},
		"no-source":   {Root: root, Mounts: []specs.Mount{guest.Bind(root+"/nowhere", "/mnt")}},
		"mount-type":  {Root: root, Mounts: []specs.Mount{{Destination: "/mnt", Type: "no-such-filesystem", Source: "none"}}},
		"twice":       {Root: root, Mounts: []specs.Mount{guest.Bind(root, "/mnt"), guest.Bind(root, "/mnt")}},
		"bad-tmpfs":   {Root: root, Mounts: []specs.Mount{{Destination: "/mnt", Type: "tmpfs", Options: []string{"size=a=b"}}}},
		"no-such-cwd": {Root: root, Args: []string{"/bin/true"}, Cwd: "relative/path"},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.as(t)
			h.refuses("run", "--bundle", h.bundle(name, b), name)
			if r := h.try("state", name); r.code == 0 {
				t.Errorf("the refused sandbox exists: %v", r)
			}
			nothingRuns(t)
		})
	}
}

// exec tells the exit status of processes that end before anybody can wait for them, and of those that a signal ends.
func TestExecOfShortProcesses(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	h.run("short", h.bundle("short", guest.Bundle{Root: root, Args: []string{"/bin/sleep", "1000"}}))
	for i := range 25 {
		if r := h.try("exec", "short", "/bin/true"); r.code != 0 {
			t.Errorf("true, the %dth time: %v", i, r)
		}
		if r := h.try("exec", "short", "/bin/sh", "-c", "exit "+strconv.Itoa(i)); r.code != i {
			t.Errorf("exit %d: %v", i, r)
		}
	}
	if r := h.try("exec", "short", "/bin/sh", "-c", "kill -9 $$"); r.code != 128+9 {
		t.Errorf("killed by signal 9: %v", r)
	}
}
