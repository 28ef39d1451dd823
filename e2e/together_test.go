package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A sandbox and its gofer share a CPU while the container starts. Soon afterwards every thread may use all CPUs that the command could, also
// of processes that the guest has made meanwhile.
func TestAllCPUsAfterStart(t *testing.T) {
	h := newHost(t)
	root := h.path("rootfs")
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := h.bundle("together", guest.Bundle{
		Args: []string{"/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait"}, Root: root,
		Mounts: []specs.Mount{guest.Bind(h.directory("data"), "/mnt", "rw")},
	})
	want := map[string]bool{self().status("Cpus_allowed_list"): true}
	h.mustLaunch("together", "run", "--detach", "--bundle", bundle, "together")
	eventually(t, "all threads are allowed what this test is", func() bool { return maps.Equal(allowedCPUs(), want) })
	h.exec("together", "/bin/true")
	if got := allowedCPUs(); !maps.Equal(got, want) {
		t.Errorf("threads are allowed the CPUs %v, want %v", got, want)
	}
}

// self is the test's own process.
func self() process { return process{pid: os.Getpid()} }

// allowedCPUs returns what the threads of all processes of the binary are allowed, each list once.
func allowedCPUs() map[string]bool {
	lists := make(map[string]bool)
	for _, p := range binaryProcesses() {
		tasks, _ := filepath.Glob(p.file("task", "*"))
		for _, task := range tasks {
			for line := range strings.Lines(p.read(filepath.Join("task", filepath.Base(task), "status"))) {
				if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
					lists[strings.TrimSpace(list)] = true
				}
			}
		}
	}
	return lists
}
