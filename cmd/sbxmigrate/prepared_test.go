package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// sandboxProcesses returns the sandbox processes with a label.
func sandboxProcesses(t *testing.T, label string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		line, _ := os.ReadFile(file) // it may have ended by now
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[1] == spare.Subcommand && args[2] == label {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// preparedBundle writes a bundle that sleeps, changed by edit.
func preparedBundle(t *testing.T, edit func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeRootfs(filepath.Join(dir, "rootfs")); err != nil {
		t.Fatal(err)
	}
	spec := newSpec(specOptions{}, []string{"/bin/sleep", "1000"})
	if edit != nil {
		edit(spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// happens waits for what comes at once, unless it never does.
func happens(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(awaitLimit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// A command leaves one sandbox process, the prepared one or another, and none where it fails.
func TestPreparedProcessIsUsedOrEnded(t *testing.T) {
	state := t.TempDir()
	t.Cleanup(func() { deleteAll(state) })
	plain := preparedBundle(t, nil)
	inCgroup := preparedBundle(t, func(s *specs.Spec) { s.Linux.CgroupsPath = fmt.Sprintf("/sbxmigrate-test-%d", os.Getpid()) })
	missing := preparedBundle(t, func(s *specs.Spec) { s.Root.Path = "missing" })
	for i, c := range []struct {
		name string
		line string // ID, BUNDLE and LABEL stand for what they say
		runs bool
	}{
		{"foreground", "run --bundle BUNDLE ID", true},
		{"cgroup", "run --bundle BUNDLE ID", true},
		{"options-behind", "run --bundle BUNDLE ID --detach", true},
		{"label-of-another", "run ID --detach --bundle BUNDLE --pid-file LABEL", true},
		{"failing", "run --detach --bundle BUNDLE ID", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, label := fmt.Sprintf("prepared-%d-%d", os.Getpid(), i), fmt.Sprintf("label-%d-%d", os.Getpid(), i)
			bundle := map[string]string{"cgroup": inCgroup, "failing": missing}[c.name]
			if bundle == "" {
				bundle = plain
			}
			line := strings.NewReplacer("ID", id, "BUNDLE", bundle, "LABEL", label).Replace(c.line)
			cmd := exec.Command("sbxmigrate", append([]string{"--root", state}, strings.Fields(line)...)...)
			cmd.Dir = t.TempDir()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			if !c.runs {
				if err := <-ended; err == nil {
					t.Error("it does not fail")
				}
				if left := sandboxProcesses(t, id); len(left) > 0 {
					t.Errorf("processes %v are left", left)
				}
				return
			}
			happens(t, "it runs", func() bool {
				out, err := exec.Command("sbxmigrate", "--root", state, "state", id).Output()
				return err == nil && strings.Contains(string(out), `"running"`)
			})
			if all := append(sandboxProcesses(t, id), sandboxProcesses(t, label)...); len(all) != 1 {
				t.Errorf("it has sandbox processes %v", all)
			}
			// In the foreground, it is deleted by its command.
			if out, err := exec.Command("sbxmigrate", "--root", state, "kill", id, "KILL").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			<-ended
			happens(t, "its processes end", func() bool { return len(sandboxProcesses(t, id)) == 0 })
		})
	}
}

// A prepared process that has ended before it is needed is replaced.
func TestPreparedProcessDiesEarly(t *testing.T) {
	state, bundle := t.TempDir(), preparedBundle(t, nil)
	t.Cleanup(func() { deleteAll(state) })
	config := filepath.Join(bundle, "config.json")
	spec, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	// The command waits for its bundle until we have written it.
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(config, 0o600); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("early-%d", os.Getpid())
	ctx, cancel := context.WithTimeout(t.Context(), awaitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sbxmigrate", "--root", state, "run", "--detach", "--bundle", bundle, id)
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd.Stderr = output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var early []int
	happens(t, "a process is prepared", func() bool { early = sandboxProcesses(t, id); return len(early) > 0 })
	if err := syscall.Kill(early[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	happens(t, "it has ended, and nobody collects it", func() bool {
		// Only when its last thread has gone its descriptors are closed.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", early[0]))
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", early[0]))
		return err == nil && strings.Contains(string(stat), ") Z ") && len(threads) == 1
	})
	if err := os.WriteFile(config, spec, 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		said, _ := os.ReadFile(output.Name())
		t.Fatalf("run: %v: %s", err, said)
	}
	if now := sandboxProcesses(t, id); len(now) != 1 || now[0] == early[0] {
		t.Errorf("it has sandbox processes %v, the prepared one was %v", now, early)
	}
}

// What the command's caller left open does not reach the sandbox process, whatever its number.
func TestSandboxProcessInheritsNothing(t *testing.T) {
	state, bundle := t.TempDir(), preparedBundle(t, nil)
	t.Cleanup(func() { deleteAll(state) })
	secret, err := os.Create(filepath.Join(t.TempDir(), "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	id := fmt.Sprintf("inherits-%d", os.Getpid())
	cmd := exec.Command("sbxmigrate", "--root", state, "run", "--detach", "--bundle", bundle, id)
	cmd.ExtraFiles = make([]*os.File, spare.TableFD+100)
	cmd.ExtraFiles[0], cmd.ExtraFiles[spare.TableFD+99] = secret, secret
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pids := sandboxProcesses(t, id)
	if len(pids) != 1 {
		t.Fatalf("it has sandbox processes %v", pids)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pids[0])
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("descriptors %v: %v", entries, err)
	}
	for _, entry := range entries {
		if target, _ := os.Readlink(filepath.Join(dir, entry.Name())); target == secret.Name() {
			t.Errorf("the sandbox process has the caller's file as descriptor %s", entry.Name())
		}
	}
}

// A limit on open files that is too low is named.
func TestFileLimitIsNamed(t *testing.T) {
	state, bundle := t.TempDir(), preparedBundle(t, nil)
	t.Cleanup(func() { deleteAll(state) })
	out, err := exec.Command("sh", "-c", `ulimit -n 512 && exec sbxmigrate "$@"`, "sh", "--root", state, "run", "--detach", "--bundle", bundle, "limited").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "limit of 512 open files (RLIMIT_NOFILE)") {
		t.Errorf("%v: %s", err, out)
	}
}
