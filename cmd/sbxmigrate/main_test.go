package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start sandboxes and need root; failing rather than testing nothing")
		os.Exit(1)
	}
	// The test binary is the program too, its sandbox processes and gofers
	// included, when it is called sbxmigrate.
	testscript.Main(m, map[string]func(){"sbxmigrate": main})
}

// Each script in testdata shows one behaviour. $R is its own state root; the
// sandboxes in it are deleted in the end. Beside testscript's commands there are
//
//	sbx STATUS ARG...                     sbxmigrate --root $R ARG..., which must exit with STATUS
//	launch NAME ARG...                    the same, for what leaves a sandbox behind; streams in NAME.out and NAME.err
//	bundle DIR [PATCH] -- COMMAND ARG...  write a bundle, its config.json changed by a JSON merge patch
//	await COMMAND ARG...                  run it until it exits with status 0
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			state := filepath.Join(env.WorkDir, "state")
			env.Setenv("R", state)
			env.Defer(func() { deleteAll(state) })
			return writeRootfs(filepath.Join(env.WorkDir, "rootfs"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sbx":    scriptSbx,
			"bundle": scriptBundle,
			"launch": scriptLaunch,
			"await":  scriptAwait,
		},
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

func deleteAll(state string) {
	all, _ := sandbox.Root(state).List()
	for _, s := range all {
		exec.Command("sbxmigrate", "--root", state, "delete", "--force", s.ID).Run()
	}
}

// writeRootfs makes a root filesystem with busybox and a link for each of its
// commands.
func writeRootfs(dir string) error {
	for _, sub := range []string{"bin", "etc", "proc", "dev", "sys", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	for _, name := range []string{
		"sh", "cat", "echo", "env", "false", "grep", "hostname", "id", "ls", "mount", "ps", "pwd", "sleep", "stty", "touch", "true", "wc",
	} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/motd"), []byte("welcome\n"), 0o644)
}

func scriptSbx(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sbx STATUS ARG...")
	}
	err := ts.Exec("sbxmigrate", append([]string{"--root", ts.Getenv("R")}, args[1:]...)...)
	status := 0
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		status = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("sbxmigrate exited with status %d, want %s", status, args[0])
	}
}

// scriptBundle merges its patch as RFC 7396 has it.
func scriptBundle(ts *testscript.TestScript, neg bool, args []string) {
	end := 0
	for end < len(args) && args[end] != "--" {
		end++
	}
	if neg || end < 1 || end > 2 || end >= len(args)-1 {
		ts.Fatalf("usage: bundle DIR [PATCH] -- COMMAND [ARG...]")
	}
	spec := newSpec(specOptions{}, args[end+1:])
	spec.Root.Path = ts.MkAbs("rootfs")
	var config map[string]any
	ts.Check(convert(spec, &config))
	if end == 2 {
		var patch map[string]any
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &patch))
		mergePatch(config, patch)
	}
	data, err := json.MarshalIndent(config, "", "  ")
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644))
}

// convert is from one form of JSON to another.
func convert(from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}

func mergePatch(target, patch map[string]any) {
	for key, value := range patch {
		below, isObject := value.(map[string]any)
		old, wasObject := target[key].(map[string]any)
		switch {
		case value == nil:
			delete(target, key)
		case isObject && wasObject:
			mergePatch(old, below)
		default:
			target[key] = value
		}
	}
}

// scriptLaunch gives a sandbox files for streams: testscript would wait until it
// has closed a pipe.
func scriptLaunch(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: launch NAME ARG...")
	}
	stdout, err := os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	defer stdout.Close()
	stderr, err := os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	defer stderr.Close()
	cmd := exec.Command("sbxmigrate", append([]string{"--root", ts.Getenv("R")}, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		ts.Check(err)
	}
	ts.Logf("[%v]\n%s%s", cmd.ProcessState, ts.ReadFile(args[0]+".out"), ts.ReadFile(args[0]+".err"))
	if (err != nil) != neg {
		ts.Fatalf("launch: %v", cmd.ProcessState)
	}
}

// awaitLimit is long: what is awaited happens at once, unless it never does.
const awaitLimit = time.Minute

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(awaitLimit); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never happened: %v", err)
		}
	}
}
