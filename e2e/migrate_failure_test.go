package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// The moments at which something is killed, as package failpoint names them, in their order.
var points = []string{
	"source-begun", "target-welcomed", "target-standby", "source-round", "source-stopped", "target-announced", "source-sent",
	"target-loaded", "source-prepared", "source-disarmed", "source-handed", "target-committed", "target-owner", "target-started",
	"target-complete", "source-departed", "source-destroyed",
}

// What is killed.
const (
	victimCommand = "command"
	victimAgent   = "agent"   // of the target
	victimHosts   = "both"    // command and agent
	victimSource  = "sandbox" // on the source
	victimStandby = "standby" // on the target
)

// failpoints is the directory through which processes are stopped at a point.
type failpoints struct{ dir string }

func newFailpoints(t *testing.T) failpoints {
	t.Helper()
	f := failpoints{dir: t.TempDir()}
	t.Setenv("SBXMIGRATE_FAILPOINTS", f.dir)
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

// runs says whether a sandbox runs on the host.
func (h *peerHost) runs(id string) bool {
	h.t.Helper()
	r := h.try("state", id)
	return r.code == 0 && strings.Contains(r.stdout, fmt.Sprintf("%q: %q", "status", specs.StateRunning))
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

// sandboxPID returns the process of a sandbox on a host, 0 if there is none.
func (h *peerHost) sandboxPID(id string) int {
	content, err := os.ReadFile(filepath.Join(h.state, id, "state.json"))
	if err != nil {
		return 0
	}
	var record struct {
		Sandbox struct {
			PID int `json:"pid"`
		} `json:"sandbox"`
	}
	json.Unmarshal(content, &record)
	return record.Sandbox.PID
}

// Whatever is killed at whatever moment: afterwards exactly one copy runs, or the hand-over is on record and resolve ends it; never two.
func TestMigrateSurvivesKills(t *testing.T) {
	victims := []string{victimCommand, victimAgent}
	if *long {
		victims = []string{victimCommand, victimAgent, victimHosts, victimSource, victimStandby}
	}
	f := newFailpoints(t)
	p := newPair(t)
	var matrix strings.Builder
	early := !*long // the agent before it matters is for full size
	for i, point := range points {
		fmt.Fprintf(&matrix, "%-18s", point)
		early = early && point != "target-loaded"
		for _, victim := range victims {
			if early && victim == victimAgent {
				continue
			}
			outcome := "not run, or failed"
			t.Run(point+"/"+victim, func(t *testing.T) {
				outcome = killAt(t, f, p, point, victim, fmt.Sprintf("s%d-%s", i, victim))
			})
			fmt.Fprintf(&matrix, "  %-22s", victim+": "+outcome)
		}
		matrix.WriteByte('\n')
	}
	t.Logf("who runs the sandbox afterwards:\n%s", &matrix)
}

// killAt migrates a sandbox, kills the victim at a point and returns how it ended.
func killAt(t *testing.T, f failpoints, p *pair, point, victim, id string) (outcome string) {
	a, b := &peerHost{host: p.a.as(t), name: "a", address: p.a.address}, &peerHost{host: p.b.as(t), name: "b", address: p.b.address}
	c := startCounter(t, a.host, id, guest.Bundle{})
	defer a.try("delete", "--force", id)
	defer b.try("delete", "--force", id)
	f.arm(t, point)
	defer f.release(point)
	cmd, out := a.startMigrating(id, b, b.bundle(id, c.bundle))
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	eventually(t, point+" is reached", func() bool {
		select {
		case <-ended:
			t.Fatalf("the migration ended without reaching %s: %s", point, out)
		default:
		}
		return f.reached(point)
	})
	if victim == victimCommand || victim == victimHosts {
		cmd.Process.Kill()
	}
	if victim == victimAgent || victim == victimHosts {
		p.b.stopAgent(syscall.SIGKILL)
	}
	if pid := a.sandboxPID(id); victim == victimSource && pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if pid := b.sandboxPID(id); victim == victimStandby && pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	f.release(point)
	if p.b.agent == nil {
		p.b.startAgent()
	}
	outcome = settle(t, a, b, id, victim, ended)
	switch outcome[0] {
	case 'a':
		c.countsOn()
	case 'b':
		c.restored(b.host, id).countsOn()
	}
	return outcome
}

// settle waits until a migration is over by itself, or resolves it, and returns where the sandbox runs.
func settle(t *testing.T, a, b *peerHost, id, victim string, ended chan struct{}) (outcome string) {
	t.Helper()
	<-ended
	// Long enough for whatever goes on by itself: recovery looks every two seconds.
	resolved := ""
	for deadline := time.Now().Add(8 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if a.attempts()[id] == "" && b.attempts()[id] == "" {
			break
		}
		if time.Now().After(deadline) {
			if a.runs(id) && b.runs(id) {
				t.Fatal("two copies run")
			}
			resolved = resolveHere(t, a, b, id)
			break
		}
	}
	eventually(t, "the sandbox settles", func() bool { return a.runs(id) != b.runs(id) || victim == victimSource || victim == victimStandby })
	onA, onB := a.runs(id), b.runs(id)
	switch {
	case onA && onB:
		t.Fatal("two copies run")
	case onA:
		return "a" + resolved
	case onB:
		return "b" + resolved
	}
	return "nobody" + resolved // the one copy was what was killed
}

// resolveHere is what an operator does who finds that the target has lost what it was given.
func resolveHere(t *testing.T, a, b *peerHost, id string) string {
	t.Helper()
	if b.attempts()[id] != "" {
		b.must("resolve", "--elsewhere", "--data", b.data(), id)
	}
	if a.attempts()[id] != "" {
		a.must("resolve", "--here", "--data", a.data(), id)
	}
	return ", resolved"
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
