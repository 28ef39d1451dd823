package spare

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const togetherVariable = "SBXMIGRATE_TEST_TOGETHER"

// TestTogether looks at all threads of a process that is the first of its PID namespace: on one CPU, and back where they were.
func TestTogether(t *testing.T) {
	if os.Getenv(togetherVariable) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestTogether$")
		cmd.Env = append(os.Environ(), togetherVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("in a PID namespace (this test needs root): %v\n%s", err, out)
		}
		return
	}
	before := allowedLists(t)
	if len(before) != 1 {
		t.Fatalf("threads of this process are allowed different CPUs: %v", before)
	}
	allowed, err := AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := CurrentCPU()
	if err != nil {
		t.Fatal(err)
	}
	apart, err := allowed.Together(cpu)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := allowedLists(t), fmt.Sprint(cpu); len(got) != 1 || !got[want] {
		t.Errorf("together, threads are allowed %v, want %s for each", got, want)
	}
	if err := apart(); err != nil {
		t.Fatal(err)
	}
	if got := allowedLists(t); len(got) != 1 || fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("apart, threads are allowed %v, want %v as before", got, before)
	}
}

// TestTogetherWhereAllowed asks for CPUs that the process may not use.
func TestTogetherWhereAllowed(t *testing.T) {
	before := allowedLists(t)
	var some CPUs
	some[0] = 1 << 1
	for _, cpu := range []int{-1, 0, 2, 64, len(some) * 64, 1 << 40} {
		if _, err := some.Together(cpu); !errors.Is(err, errNotAllowed) {
			t.Errorf("stay on CPU %d of {1}: %v, want %v", cpu, err, errNotAllowed)
		}
	}
	some[0] |= 1
	if _, err := some.Together(1); !errors.Is(err, errNotFirst) {
		t.Errorf("stay on a CPU beside other processes: %v, want %v", err, errNotFirst)
	}
	some[0] = 1 << 1
	if apart, err := some.Together(1); err != nil || apart() != nil {
		t.Errorf("stay on the only CPU: %v", err)
	}
	if after := allowedLists(t); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("threads are allowed %v now, want %v", after, before)
	}
}

// allowedLists returns what the threads of this process are allowed, each list once.
func allowedLists(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	lists := make(map[string]bool)
	for _, path := range paths {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, found := strings.Cut(string(status), "Cpus_allowed_list:\t")
		if !found {
			t.Fatalf("%s names no CPUs", path)
		}
		list, _, _ := strings.Cut(rest, "\n")
		lists[list] = true
	}
	return lists
}
