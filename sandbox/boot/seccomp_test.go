package boot

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"reflect"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
)

var update = flag.Bool("update", false, "write filter.json anew")

const dumpFilterVariable = "SBXMIGRATE_TEST_DUMP_FILTER"

// TestFilterIsCurrent compiles the seccomp filter as a sandbox process would,
// which is process 1 of its namespace, and compares it with filter.json.
func TestFilterIsCurrent(t *testing.T) {
	if os.Getenv(dumpFilterVariable) != "" {
		dumpFilter(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestFilterIsCurrent$")
	path := t.TempDir() + "/filter.json"
	cmd.Env = append(os.Environ(), dumpFilterVariable+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile filter in a PID namespace (this test needs root): %v\n%s", err, out)
	}
	fresh, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("filter.json", fresh, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	var want, have compiledFilter
	if err := json.Unmarshal(fresh, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(precompiledFilter, &have); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("filter.json is not what the rules compile to (have %d instructions for %q, want %d for %q): run go test ./sandbox/boot -run TestFilterIsCurrent -update",
			len(have.Instructions), have.Key, len(want.Instructions), want.Key)
	}
}

func dumpFilter(t *testing.T) {
	cpuid.Initialize()
	gomaxprocs.SetBase(2)
	p, err := newPlatform(DefaultPlatform)
	if err != nil {
		t.Fatal(err)
	}
	tracking, err := openTracking()
	if err != nil {
		t.Fatal(err)
	}
	filter, err := filterParts{p, controlFD, tracking}.compile()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(filter)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv(dumpFilterVariable), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
