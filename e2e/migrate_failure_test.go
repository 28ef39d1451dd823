package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// The moments at which something fails, as package failpoint names them, in their order.
var points = []string{
	"source-begun", "target-welcomed", "target-standby", "source-round", "source-stopped", "target-announced", "source-sent",
	"target-loaded", "source-prepared", "source-disarmed", "source-handed", "target-committed", "target-owner", "target-started",
	"target-complete", "source-departed", "source-destroyed",
}

// failpoints is the directory through which processes are stopped at a point.
type failpoints struct{ dir string }

const failpointsVariable = "SBXMIGRATE_FAILPOINTS"

func newFailpoints(t *testing.T) failpoints {
	t.Helper()
	f := failpoints{dir: t.TempDir()}
	t.Setenv(failpointsVariable, f.dir)
	return f
}

func (f failpoints) arm(t *testing.T, point string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, point), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f failpoints) reached(point string) bool {
	_, err := os.Stat(filepath.Join(f.dir, point+".reached"))
	return err == nil
}

// slowSync lets the next fsync of a journal take its time.
func (f failpoints) slowSync(takes time.Duration) error {
	whole := filepath.Join(f.dir, "new")
	if err := os.WriteFile(whole, []byte(takes.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(whole, filepath.Join(f.dir, syncPoint))
}

// syncPoint is how package failpoint calls the fsync of a journal.
const syncPoint = "journal-sync"

// release lets whoever waits at the point go on, and disarms it.
func (f failpoints) release(point string) {
	os.Remove(filepath.Join(f.dir, point))
	os.Remove(filepath.Join(f.dir, point+".reached"))
}

// attempts returns the attempts on a host that are not over, by sandbox: their states.
func (h *peerHost) attempts() map[string]string {
	h.t.Helper()
	var list []struct {
		Sandbox string `json:"sandbox"`
		Last    struct {
			State string `json:"state"`
		} `json:"last"`
	}
	if err := json.Unmarshal([]byte(h.must("migrations", "--json", "--data", h.data())), &list); err != nil {
		h.t.Fatal(err)
	}
	open := make(map[string]string)
	for _, m := range list {
		open[m.Sandbox] = m.Last.State
	}
	return open
}

// startMigrating starts the command, which the caller waits for.
func (h *peerHost) startMigrating(id string, to *peerHost, bundle string) (*exec.Cmd, *bytes.Buffer) {
	h.t.Helper()
	cmd := h.command(context.Background(), "migrate", "--data", h.data(), "--peer", to.name, "--bundle", bundle, id, to.address)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd, out
}

// sandboxPIDs returns the process of a sandbox on a host and its gofer's, 0 for what is not there.
func (h *peerHost) sandboxPIDs(id string) (sandbox, gofer int) {
	content, err := os.ReadFile(filepath.Join(h.state, id, "state.json"))
	if err != nil {
		return 0, 0
	}
	var record struct {
		Sandbox, Gofer struct{ PID int }
	}
	json.Unmarshal(content, &record)
	return record.Sandbox.PID, record.Gofer.PID
}

// A migration is cancelled as long as that is possible, and not afterwards.
func TestMigrateCancel(t *testing.T) {
	f := newFailpoints(t)
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	bundle := p.b.bundle("web", c.bundle)
	if r := p.a.try("cancel", "--data", p.a.data(), "web"); !strings.Contains(r.stderr, "E_NOT_MIGRATING") {
		t.Errorf("nothing to cancel: %v", r)
	}
	for _, point := range []string{"source-round", "source-stopped", "source-prepared"} {
		f.arm(t, point)
		cmd, out := p.a.startMigrating("web", p.b, bundle)
		eventually(t, point+" is reached", func() bool { return f.reached(point) })
		p.a.must("cancel", "--data", p.a.data(), "web")
		f.release(point)
		if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "E_CANCELLED") {
			t.Fatalf("%s: cancelled migration: %v: %s", point, err, out)
		}
		c.countsOn()
		eventually(t, "the target forgets", func() bool { return p.b.try("state", "web").code != 0 })
	}
	f.arm(t, "source-handed")
	cmd, out := p.a.startMigrating("web", p.b, bundle)
	eventually(t, "the commit", func() bool { return f.reached("source-handed") })
	if r := p.a.try("cancel", "--data", p.a.data(), "web"); !strings.Contains(r.stderr, "E_TOO_LATE") {
		t.Errorf("too late to cancel: %v", r)
	}
	f.release("source-handed")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.restored(p.b.host, "web").countsOn()
	if text := p.a.must("report", "--data", p.a.data(), "web"); !strings.Contains(text, "total") {
		t.Errorf("report: %s", text)
	}
	if page := p.a.must("report", "--html", "--data", p.a.data(), "web"); !strings.Contains(page, "</html>") {
		t.Errorf("page: %s", page)
	}
}

// A target that hangs, whose kernel goes on acknowledging, does not keep the stopped sandbox waiting for ever.
func TestMigrateToHungTarget(t *testing.T) {
	f := newFailpoints(t)
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	f.arm(t, "target-loaded")
	cmd, out := p.a.startMigrating("web", p.b, p.b.bundle("web", c.bundle))
	eventually(t, "the kernel is loaded", func() bool { return f.reached("target-loaded") })
	p.b.agent.Process.Signal(syscall.SIGSTOP)
	defer p.b.agent.Process.Signal(syscall.SIGCONT)
	f.release("target-loaded")
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "target is not prepared") {
		t.Fatalf("%v: %s", err, out)
	}
	c.countsOn()
	p.b.agent.Process.Signal(syscall.SIGCONT)
	eventually(t, "the target forgets", func() bool { return p.b.try("state", "web").code != 0 })
	c.countsOn()
}

// A process that is started inside after the plan was made moves as well: the migration begins again, once.
func TestMigrateDuringExec(t *testing.T) {
	f := newFailpoints(t)
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	f.arm(t, "source-round")
	cmd, out := p.a.startMigrating("web", p.b, p.b.bundle("web", c.bundle))
	eventually(t, "a round", func() bool { return f.reached("source-round") })
	p.a.mustLaunch("exec", "exec", "--detach", "web", "/bin/sleep", "4321")
	f.release("source-round")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(out.String(), "second attempt") {
		t.Errorf("the exec was in time for the plan: this test shows nothing: %s", out)
	}
	p.a.wantMigrated("web", p.b)
	there := c.restored(p.b.host, "web")
	there.countsOn()
	if processes := p.b.must("ps", "web"); !strings.Contains(processes, "sleep") {
		t.Errorf("what exec started is not there:\n%s", processes)
	}
	p.b.exec("web", "/bin/true") // under a name that is not taken
}
