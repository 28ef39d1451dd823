package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// noStatus is the exit status of commands that end with a container's status, where there is none.
const noStatus = 255

// Whoever waits for a sandbox that moves away learns where it went; nothing on the source tears down what lives elsewhere now; and what it prints
// is kept where it arrived.
func TestMigrateAfterwards(t *testing.T) {
	p := newPair(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	b := guest.Bundle{Root: root, Args: []string{"/bin/sh", "-c", `i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.05; done`}}
	hooked := func(h *peerHost) string {
		b.Edit = func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo torn down >>" + h.path("hooks.log")}}}}
		}
		return h.bundle("web", b)
	}
	tornDown := func(h *peerHost) bool {
		content, _ := os.ReadFile(h.path("hooks.log"))
		return strings.Contains(string(content), "torn down")
	}

	// One command runs the sandbox in the foreground, another waits for it.
	bundle := hooked(p.a)
	running := follow(t, p.a.host, "run", "--keep", "--bundle", bundle, "web")
	eventually(t, "it prints", func() bool { return strings.Contains(running.stdout(), "line 3") })
	waiting := follow(t, p.a.host, "wait", "web")

	p.a.mustMigrate("web", p.b, "--bundle", hooked(p.b))

	for _, f := range []*follower{running, waiting} {
		if code := f.wait(); code != noStatus || !strings.Contains(f.stderr(), "has migrated to: b ("+p.b.address+") [E_MIGRATED]") {
			t.Errorf("%v ended with %d: %s", f.cmd.Args, code, f.stderr())
		}
	}
	p.a.must("delete", "web")
	if tornDown(p.a) {
		t.Error("the source ran its poststop hooks, though the sandbox lives elsewhere")
	}

	// It goes on printing, from where it was.
	last := lines(running.stdout())
	eventually(t, "the target keeps what it prints", func() bool { return strings.Contains(p.b.must("logs", "--output", "web"), "line ") })
	first := lines(p.b.must("logs", "--output", "web"))[0]
	if got, want := atoi(t, strings.TrimPrefix(first, "line ")), atoi(t, strings.TrimPrefix(last[len(last)-1], "line ")); got != want+1 {
		t.Errorf("the source printed up to line %d, the target from line %d on", want, got)
	}

	// The hooks are no decoration: where it ends, they run.
	p.b.must("kill", "web", "KILL")
	p.b.try("wait", "web")
	p.b.must("delete", "web")
	if !tornDown(p.b) {
		t.Error("the target ran no poststop hooks")
	}
}

// A follower is a command that lasts as long as a sandbox does.
type follower struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, log string // files
	ended    chan struct{}
}

// follow starts a command whose output goes to files, since a sandbox may have it too.
func follow(t *testing.T, h *host, args ...string) *follower {
	t.Helper()
	f := &follower{t: t, cmd: h.command(context.Background(), args...), out: h.path(args[0] + ".out"), log: h.path(args[0] + ".log"), ended: make(chan struct{})}
	out, err := os.Create(f.out)
	log, err2 := os.Create(f.log)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer log.Close()
	f.cmd.Stdout, f.cmd.Stderr = out, log
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		f.cmd.Wait()
		close(f.ended)
	}()
	t.Cleanup(func() {
		f.cmd.Process.Kill()
		<-f.ended
	})
	return f
}

func (f *follower) stdout() string { return f.read(f.out) }
func (f *follower) stderr() string { return f.read(f.log) }

func (f *follower) read(name string) string {
	f.t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(content)
}

// wait returns the command's exit status once it has ended.
func (f *follower) wait() int {
	f.t.Helper()
	eventually(f.t, f.cmd.String()+" ends", func() bool {
		select {
		case <-f.ended:
			return true
		default:
			return false
		}
	})
	return f.cmd.ProcessState.ExitCode()
}
