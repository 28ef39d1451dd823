package dirty

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// tortureVariable, if set in the environment, makes the test binary a sandbox:
// see runTorture.
const tortureVariable = "DIRTY_TORTURE"

// tortureRun says what a sandbox process is to do, and is its argument.
type tortureRun struct {
	Guest   string // path of the program
	Only    string // what it is to do; default all
	Disable Rule
	Rounds  int
}

// tortureResult is what it prints.
type tortureResult struct {
	PagesChecked uint64 // in all audits
	PagesDirty   uint64
	PagesMissed  uint64
	Faults       uint64
	Vanished     uint64
	SentryPages  uint64
}

func buildGuest(t *testing.T) string {
	t.Helper()
	guest := filepath.Join(t.TempDir(), "torture")
	build := exec.Command("go", "build", "-o", guest, "./testdata/torture")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	return guest
}

// torture runs a guest in a kernel in a process of its own. A PID namespace
// ends the processes of the platform with it.
func torture(t *testing.T, run tortureRun) tortureResult {
	t.Helper()
	argument, err := json.Marshal(run)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), tortureVariable+"="+string(argument))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	timer := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.Output()
	if err != nil {
		text, _ := os.ReadFile(stderr.Name())
		t.Fatalf("sandbox: %v\n%s%s", err, out, text)
	}
	var result tortureResult
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%+v: %+v", run, result)
	return result
}

// TestTorture runs a real kernel with a guest that changes its memory in every
// way, collects while it runs, and audits each third round.
func TestTorture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("a sandbox needs root")
	}
	guest := buildGuest(t)
	got := torture(t, tortureRun{Guest: guest, Rounds: 60})
	if got.PagesMissed != 0 {
		t.Errorf("%d pages missed", got.PagesMissed)
	}
	if got.Faults == 0 || got.Vanished == 0 || got.SentryPages == 0 || got.PagesChecked == 0 {
		t.Errorf("the guest did not do all that it should: %+v", got)
	}
}

// TestTortureNegativeControls shows that the audit of such a run can fail.
func TestTortureNegativeControls(t *testing.T) {
	guest := buildGuest(t)
	for _, c := range []struct {
		name, only string
		disable    Rule
	}{
		{"sentry writes", "", RuleSentryWrites},
		{"mappings", "", RuleMappings},
		{"reused frames", "reuse", RuleReusedFrames},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := tortureRun{Guest: guest, Only: c.only, Rounds: 60}
			if got := torture(t, run); got.PagesMissed != 0 {
				t.Errorf("%d pages were missed with everything on", got.PagesMissed)
			}
			run.Disable = c.disable
			if got := torture(t, run); got.PagesMissed == 0 {
				t.Error("no page was missed")
			}
		})
	}
}

// tortureMain is the main function of the sandbox process.
func tortureMain(argument string) int {
	var run tortureRun
	err := json.Unmarshal([]byte(argument), &run)
	if err == nil {
		var result tortureResult
		if result, err = runTorture(run); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(result)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, strconv.Quote(err.Error()))
		return 1
	}
	return 0
}
