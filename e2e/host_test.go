package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// commandLimit bounds every command: none may hang, whatever the sandbox does. It is generous, since CI is slow at times.
var commandLimit = 2 * time.Minute

// A host stands for one machine: it has its own state directory and its own files. What was checkpointed on one is restored on another.
type host struct {
	t     *testing.T
	dir   string   // of this host, deleted after the test
	state string   // --root
	ns    *os.File // network namespace in which its commands run; nil: the test's
	env   []string // added to theirs
	hides string   // a file that its commands do not have; empty: none
}

// newHost makes a host that lives as long as the test. Its sandboxes must be deleted by then, or are by force.
func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(binary), "host-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, state: filepath.Join(dir, "state")}
	t.Cleanup(h.close)
	return h
}

// as returns the host for a subtest, which must not fail its parent.
func (h *host) as(t *testing.T) *host {
	other := *h
	other.t = t
	return &other
}

// close deletes every sandbox and directory of the host, and shows the logs of a failed test.
func (h *host) close() {
	if h.t.Failed() {
		h.showLogs()
	}
	entries, _ := os.ReadDir(h.state)
	for _, entry := range entries {
		h.try("delete", "--force", entry.Name())
	}
	if h.t.Failed() && *keep {
		h.t.Logf("kept %s", h.dir)
		return
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Errorf("clean up: %v", err)
	}
}

// showLogs prints the end of each log file: what workloads printed, and what the sandboxes' own processes did.
func (h *host) showLogs() {
	printed, _ := filepath.Glob(filepath.Join(h.dir, "*.log"))
	own, _ := filepath.Glob(filepath.Join(h.state, "*", "*.log"))
	for _, name := range append(printed, own...) {
		const shownBytes = 4 << 10
		content, _ := os.ReadFile(name)
		if len(content) > shownBytes {
			content = content[len(content)-shownBytes:]
		}
		if len(content) > 0 {
			h.t.Logf("%s ends with:\n%s", strings.TrimPrefix(name, h.dir+"/"), content)
		}
	}
}

// path returns a file of this host.
func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// bundle writes a bundle, which may also be below another path than the one before, and returns its directory.
func (h *host) bundle(name string, b guest.Bundle) string {
	h.t.Helper()
	dir := h.path("bundles", name)
	if err := b.Write(dir); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// directory makes a directory of the host.
func (h *host) directory(elem ...string) string {
	h.t.Helper()
	dir := h.path(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// file writes a file of the host.
func (h *host) file(name, content string) string {
	h.t.Helper()
	if err := os.WriteFile(h.path(name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

// A result is what a command left behind.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("sbxmigrate %s: exit status %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// command prepares a command with this host's state directory. The caller runs it.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	line := append([]string{binary, "--root", h.state}, args...)
	if h.ns != nil {
		line = append([]string{"nsenter", "--net=" + netlab.Path(h.ns), "--"}, line...) // it becomes the command: same process
	}
	if h.hides != "" {
		// So does this.
		line = append([]string{"unshare", "--mount", "--", "sh", "-c", `mount --bind /dev/null "$0" && exec "$@"`, h.hides}, line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	if h.env != nil {
		cmd.Env = append(os.Environ(), h.env...)
	}
	cmd.WaitDelay = time.Second // a sandbox that inherited a pipe must not keep the test waiting
	return cmd
}

// try runs a command and returns what happened. Stdin is empty; stdio must not be inherited by a sandbox: see launch.
func (h *host) try(args ...string) result {
	h.t.Helper()
	return h.finish(nil, args...)
}

// finish is try with something on stdin.
func (h *host) finish(stdin io.Reader, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := h.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	r := result{args: args, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if ctx.Err() != nil {
		h.t.Fatalf("no end after %v: %v", commandLimit, r)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%v: %v", err, r)
	}
	return r
}

// must runs a command that has to succeed, and returns its stdout.
func (h *host) must(args ...string) string {
	h.t.Helper()
	r := h.try(args...)
	if r.code != 0 {
		h.t.Fatal(r)
	}
	return r.stdout
}

// refuses runs a command that has to fail with a message, and returns the message.
func (h *host) refuses(args ...string) string {
	h.t.Helper()
	r := h.try(args...)
	switch {
	case r.code == 0:
		h.t.Fatalf("should have failed: %v", r)
	case strings.Contains(r.stderr, "goroutine "), strings.Contains(r.stderr, "panic:"):
		h.t.Fatalf("panicked: %v", r)
	case strings.TrimSpace(r.stderr) == "":
		h.t.Fatalf("failed without a message: %v", r)
	}
	return r.stderr
}

// launch runs a command that leaves a sandbox behind, whose output goes to NAME.log of this host, as the command's own does.
func (h *host) launch(name string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	log, err := os.OpenFile(h.path(name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	before, _ := log.Seek(0, io.SeekEnd)
	cmd := h.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = log, log
	runErr := cmd.Run()
	if ctx.Err() != nil {
		h.t.Fatalf("no end after %v: sbxmigrate %s", commandLimit, strings.Join(args, " "))
	}
	output, err := os.ReadFile(log.Name())
	if err != nil {
		h.t.Fatal(err)
	}
	r := result{args: args, stderr: string(output[min(before, int64(len(output))):])}
	if cmd.ProcessState != nil {
		r.code = cmd.ProcessState.ExitCode()
	} else {
		h.t.Fatal(runErr)
	}
	return r
}

// mustLaunch is launch for a command that has to succeed.
func (h *host) mustLaunch(name string, args ...string) {
	h.t.Helper()
	if r := h.launch(name, args...); r.code != 0 {
		h.t.Fatal(r)
	}
}

// run starts a sandbox in the background.
func (h *host) run(id, bundle string) {
	h.t.Helper()
	h.mustLaunch(id, "run", "--detach", "--bundle", bundle, id)
}

// exec runs a command inside, which has to succeed, and returns its stdout.
func (h *host) exec(id string, args ...string) string {
	h.t.Helper()
	return h.must(append([]string{"exec", id}, args...)...)
}

// ask asks the program inside a question and decodes its answer.
func (h *host) ask(id string, question ...string) map[string]any {
	h.t.Helper()
	out := h.exec(id, guest.Ask(question...)...)
	var answer map[string]any
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		h.t.Fatalf("%s: answer to %q is %q: %v", id, question, out, err)
	}
	if failure, ok := answer["error"]; ok {
		h.t.Fatalf("%s: %q: %v", id, question, failure)
	}
	return answer
}

// sandboxState returns the state that the runtime specification defines.
func (h *host) sandboxState(id string) specs.State {
	h.t.Helper()
	out := h.must("state", id)
	var state specs.State
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		h.t.Fatalf("state %s printed %q: %v", id, out, err)
	}
	return state
}

// wantStatus fails unless the sandbox has the status.
func (h *host) wantStatus(id string, want specs.ContainerState) {
	h.t.Helper()
	if got := h.sandboxState(id).Status; got != want {
		h.t.Fatalf("%s is %q, want %q", id, got, want)
	}
}

// gone fails unless nothing of the sandbox runs on this host any more.
func (h *host) gone(id string) {
	h.t.Helper()
	if r := h.try("state", id); r.code == 0 {
		h.wantStatus(id, specs.StateStopped)
	}
}

// eventually waits for a condition that comes with time, and fails if it does not come at all.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	limit := time.Minute
	if *long {
		limit = 10 * time.Minute
	}
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
