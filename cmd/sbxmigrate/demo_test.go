package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate"
)

// A demoRun is a demo with a copy of the program and a temporary directory of
// its own, so that whatever it leaves can be found.
type demoRun struct {
	t      *testing.T
	binary string
	tmp    string
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr io.ReadCloser
}

func newDemoRun(t *testing.T, args ...string) *demoRun {
	dir := t.TempDir()
	r := &demoRun{t: t, binary: filepath.Join(dir, "sbxmigrate"), tmp: filepath.Join(dir, "tmp")}
	if err := os.Mkdir(r.tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	// A copy and not a link: its inode is what its processes are known by.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// A process that another test forks meanwhile would have it open for writing
	// for a moment, and what is open for writing cannot be run.
	syscall.ForkLock.RLock()
	err = os.WriteFile(r.binary, self, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command(r.binary, append([]string{"demo", "--memory", "8"}, args...)...)
	r.cmd.Env = append(os.Environ(), "TMPDIR="+r.tmp)
	r.cmd.Stdout = &r.stdout
	if r.stderr, err = r.cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	return r
}

// finish runs the demo to its end, calling each with every line of its
// progress, and returns its exit status.
func (r *demoRun) finish(each func(line string)) int {
	r.t.Helper()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for lines := bufio.NewScanner(r.stderr); lines.Scan(); {
		r.t.Log(lines.Text())
		each(lines.Text())
	}
	if err := r.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// checkNothingLeft fails the test unless all that the demo made is gone. Its
// network namespaces have no names: with its processes they are gone too.
func (r *demoRun) checkNothingLeft() {
	r.t.Helper()
	if left, err := os.ReadDir(r.tmp); err != nil || len(left) > 0 {
		r.t.Errorf("left in its temporary directory: %v, %v", left, err)
	}
	for _, process := range r.processes() {
		r.t.Errorf("left running: process %s", process)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, r.tmp+"/") {
			r.t.Errorf("left mounted: %s", line)
		}
	}
}

// processes are those that run the demo's copy of the program.
func (r *demoRun) processes() (found []string) {
	r.t.Helper()
	binary, err := os.Stat(r.binary)
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, process := range all {
		if exe, err := os.Stat(process + "/exe"); err == nil && os.SameFile(exe, binary) {
			found = append(found, process)
		}
	}
	return found
}

// finishedDemo runs a demo that must end well and leave nothing, and returns its
// result.
func finishedDemo(t *testing.T, args ...string) demoResult {
	t.Helper()
	r := newDemoRun(t, append(args, "--json")...)
	if status := r.finish(func(string) {}); status != 0 {
		t.Fatalf("exit status %d, want 0", status)
	}
	r.checkNothingLeft()
	var result demoResult
	if err := json.Unmarshal(r.stdout.Bytes(), &result); err != nil {
		t.Fatalf("parse %q: %v", &r.stdout, err)
	}
	if want := 8<<20/demoValueBytes + 1; result.Keys != want {
		t.Errorf("%d keys, want %d", result.Keys, want)
	}
	if result.Answers < 2*demoAnswers || result.Errors != 0 {
		t.Errorf("%d answers and %d errors, want %d and none at least", result.Answers, result.Errors, 2*demoAnswers)
	}
	if result.LongestGapNanos <= 0 {
		t.Error("no gap between answers was measured")
	}
	return result
}

func TestDemoLive(t *testing.T) {
	t.Parallel()
	move := finishedDemo(t).Move
	if move.Live == nil || move.Image != nil {
		t.Fatalf("moved otherwise than live: %+v", move)
	}
	report := move.Live.Report
	if err := report.Check(); err != nil {
		t.Error(err)
	}
	if report.Outcome != migrate.Done || report.Mode != string(migrate.PreCopy) {
		t.Errorf("outcome %s by %s, want %s by %s", report.Outcome, report.Mode, migrate.Done, migrate.PreCopy)
	}
	if report.PagesCommitted*demoPageBytes < 8<<20 || report.WireBytes < 4<<20 {
		t.Errorf("%d pages in %d bytes: what the server holds is more", report.PagesCommitted, report.WireBytes)
	}
	if len(report.Rounds) < 2 || report.Rounds[0].PagesSent*demoPageBytes < 8<<20 {
		t.Errorf("memory did not go in rounds: %+v", report.Rounds)
	}
	if report.Downtime <= 0 || report.Downtime >= report.Total {
		t.Errorf("downtime is %d ns of %d", report.Downtime, report.Total)
	}
}

func TestDemoImage(t *testing.T) {
	t.Parallel()
	all := finishedDemo(t, "--via", viaImage).Move
	if all.Image == nil || all.Live != nil {
		t.Fatalf("moved otherwise than by an image: %+v", all)
	}
	move := all.Image
	if move.MemoryBytes < 8<<20 || move.ImageBytes < 4<<20 {
		t.Errorf("moved %d bytes in an image of %d: what the server holds is more", move.MemoryBytes, move.ImageBytes)
	}
	for name, operation := range map[string]timedPhases{"save": move.Save, "restore": move.Restore} {
		if sum := operation.Phases.Total().Nanoseconds(); sum != operation.TotalNanos || len(operation.Phases) < 3 {
			t.Errorf("%s: phases sum to %d, total is %d: %v", name, sum, operation.TotalNanos, operation.Phases)
		}
	}
}

func TestDemoSaysSuccessLast(t *testing.T) {
	for _, via := range []string{viaLive, viaImage} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			r := newDemoRun(t, "--via", via)
			if status := r.finish(func(string) {}); status != 0 {
				t.Fatalf("exit status %d, want 0", status)
			}
			lines := strings.Split(strings.TrimSpace(r.stdout.String()), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "SUCCESS: ") {
				t.Errorf("the last line is %q", last)
			}
			r.checkNothingLeft()
		})
	}
}

func TestDemoRefusesOtherWays(t *testing.T) {
	t.Parallel()
	r := newDemoRun(t, "--via", "pigeon")
	if status := r.finish(func(string) {}); status == 0 {
		t.Error("exit status 0, want a failure")
	}
	r.checkNothingLeft()
}

// lastStep is the last thing that the demo waits for.
const lastStep = "over the same connection"

// Wherever the demo is interrupted, it cleans up.
func TestDemoInterrupted(t *testing.T) {
	for via, points := range map[string][]string{
		viaLive: {
			"two hosts", "store started", "and listens", "connected from outside", "every answer right", "agent listens",
			"memory goes to host B", "stands still", "has all of its memory", "handed over", "runs here now", lastStep,
		},
		viaImage: {"store saved", "store restored", "all memory is there"},
	} {
		for _, at := range points {
			t.Run(via+"/"+strings.ReplaceAll(at, " ", "-"), func(t *testing.T) {
				t.Parallel()
				r := newDemoRun(t, "--via", via)
				status := r.finish(r.interruptAt(at, unix.SIGINT))
				if status == 0 && at == lastStep {
					// The signal came after the end, which is near: that is no
					// interruption. Still nothing may be left.
					r.checkNothingLeft()
					return
				}
				if want := 130; status != want {
					t.Errorf("exit status %d, want %d", status, want)
				}
				if r.stdout.Len() > 0 {
					t.Errorf("printed a result: %s", &r.stdout)
				}
				r.checkNothingLeft()
			})
		}
	}
}

// interruptAt sends the demo a signal when its progress says what.
func (r *demoRun) interruptAt(what string, signal unix.Signal) func(line string) {
	sent := false
	return func(line string) {
		if !sent && strings.Contains(line, what) {
			sent = true
			if err := r.cmd.Process.Signal(signal); err != nil {
				r.t.Error(err)
			}
		}
	}
}

// A disk that is full in the middle of the checkpoint fails the demo, which
// cleans up all the same.
func TestDemoOnFullDisk(t *testing.T) {
	r := newDemoRun(t, "--memory", "64", "--via", viaImage)
	self, err := os.Stat(r.binary)
	if err != nil {
		t.Fatal(err)
	}
	// Room for the program, once a bundle, and for part of the image.
	size := fmt.Sprintf("size=%d", 2*(self.Size()+1<<20)+8<<20)
	if err := unix.Mount("small-disk", r.tmp, "tmpfs", 0, size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(r.tmp, 0); err != nil {
			t.Error(err)
		}
	})
	var progress []string
	if status := r.finish(func(line string) { progress = append(progress, line) }); status == 0 {
		t.Error("exit status 0, want a failure")
	}
	says := func(what string) bool {
		return slices.ContainsFunc(progress, func(line string) bool { return strings.Contains(line, what) })
	}
	if !says("every answer right") || says("saved, and ended") || !says("no space left on device") {
		t.Error("did not fail in the checkpoint")
	}
	if r.stdout.Len() > 0 {
		t.Errorf("printed a result: %s", &r.stdout)
	}
	r.checkNothingLeft()
}

// A sandbox that dies while its client is connected fails the demo, on either
// host.
func TestDemoWhoseSandboxDies(t *testing.T) {
	for _, at := range []string{"connected from outside", "memory goes to host B", "runs here now"} {
		t.Run(strings.ReplaceAll(at, " ", "-"), func(t *testing.T) {
			t.Parallel()
			r := newDemoRun(t)
			status := r.finish(func(line string) {
				if strings.Contains(line, at) {
					r.killSandboxes()
				}
			})
			if status == 0 {
				t.Error("exit status 0, want a failure")
			}
			if r.stdout.Len() > 0 {
				t.Errorf("printed a result: %s", &r.stdout)
			}
			r.checkNothingLeft()
		})
	}
}

// killSandboxes kills the demo's sandbox processes, on both hosts.
func (r *demoRun) killSandboxes() {
	r.t.Helper()
	for _, process := range r.processes() {
		command, err := os.ReadFile(process + "/cmdline")
		if errors.Is(err, fs.ErrNotExist) || !bytes.Contains(command, []byte("sandbox-boot\x00"+demoSandboxID)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(process, "/proc/%d", &pid); err != nil {
			r.t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			r.t.Error(err)
		}
	}
}
