package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A pair is two hosts that trust each other, each with an agent: on the loopback device, if the hosts are in no namespaces of their own.
type pair struct {
	t    *testing.T
	a, b *peerHost
}

// A peerHost is a host with a key and an agent.
type peerHost struct {
	*host
	name    string
	agent   *exec.Cmd  // nil while none runs
	log     *lockedLog // of the agents so far
	address string     // of the agent
	flags   []string   // of the agents to come
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, a: &peerHost{host: newHost(t), name: "a"}, b: &peerHost{host: newHost(t), name: "b"}}
	p.begin()
	return p
}

// begin lets the hosts trust each other and starts their agents.
func (p *pair) begin() {
	p.t.Helper()
	keys := make(map[*peerHost]string)
	for _, h := range []*peerHost{p.a, p.b} {
		keys[h] = strings.TrimSpace(h.must("key", "init", "--data", h.data()))
	}
	p.a.must("key", "trust", "b", keys[p.b], "--data", p.a.data())
	p.b.must("key", "trust", "a", keys[p.a], "--data", p.b.data())
	p.a.startAgent()
	p.b.startAgent()
}

func (h *peerHost) data() string { return h.path("data") }

// startAgent starts the host's agent, which ends with the test at the latest.
func (h *peerHost) startAgent() {
	h.t.Helper()
	listen := "127.0.0.1:0"
	if h.address != "" {
		listen = h.address // where it was: who looks for it knows no other
	}
	cmd := h.command(context.Background(), append([]string{"agent", "--listen", listen, "--data", h.data()}, h.flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if h.log == nil {
		h.log = new(lockedLog)
	}
	cmd.Stderr = h.log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		h.t.Fatalf("agent: %v: %s", err, h.log)
	}
	go io.Copy(io.Discard, out)
	h.agent, h.address = cmd, strings.TrimSpace(line)
	h.t.Cleanup(func() {
		h.stopAgent(syscall.SIGTERM)
		if h.t.Failed() {
			h.t.Logf("agent of %s:\n%s", h.name, h.log)
		}
	})
}

// stopAgent ends the agent by a signal and waits for it.
func (h *peerHost) stopAgent(signal syscall.Signal) {
	if h.agent == nil {
		return
	}
	h.agent.Process.Signal(signal)
	h.agent.Wait()
	h.agent = nil
}

// migrate moves a sandbox from one host to the other and returns what the command left behind.
func (h *peerHost) migrate(id string, to *peerHost, flags ...string) result {
	h.t.Helper()
	return h.try(append([]string{"migrate", "--data", h.data(), "--peer", to.name, id, to.address}, flags...)...)
}

// mustMigrate is migrate for one that has to succeed. It returns the report, and fails unless exactly one copy is left.
func (h *peerHost) mustMigrate(id string, to *peerHost, flags ...string) migrationReport {
	h.t.Helper()
	r := h.migrate(id, to, append(flags, "--json")...)
	if r.code != 0 {
		h.t.Fatal(r)
	}
	var report migrationReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		h.t.Fatalf("report: %v: %s", err, r.stdout)
	}
	h.t.Logf("downtime %v of %v, phases %v", time.Duration(report.Downtime), time.Duration(report.Total), report.Phases)
	h.wantMigrated(id, to)
	to.wantStatus(id, specs.StateRunning)
	return report
}

// wantMigrated fails unless a sandbox's remains say where it went.
func (h *peerHost) wantMigrated(id string, to *peerHost) {
	h.t.Helper()
	state := h.sandboxState(id)
	if state.Status != specs.StateStopped || !strings.Contains(state.Annotations["org.sbxmigrate.migrated-to"], to.address) {
		h.t.Errorf("what is left of %s says %+v", id, state)
	}
	if r := h.try("wait", id); r.code == 0 || !strings.Contains(r.stderr, "E_MIGRATED") {
		h.t.Errorf("waiting for a sandbox that migrated: %v", r)
	}
}

// migrationReport is the part of a report that tests look at.
type migrationReport struct {
	Outcome  string `json:"outcome"`
	Total    int64  `json:"totalNanoseconds"`
	Downtime int64  `json:"downtimeNanoseconds"`
	Phases   []struct {
		Phase       string `json:"phase"`
		Nanoseconds int64  `json:"nanoseconds"`
	} `json:"phases"`
	Rounds []struct {
		Tracker         string `json:"tracker"`
		PagesSent       uint64 `json:"pagesSent"`
		PagesRemaining  uint64 `json:"pagesRemaining"`
		ThrottlePercent int    `json:"throttlePercent"`
		Predicted       int64  `json:"predictedDowntimeNanoseconds"`
		Decision        string `json:"decision"`
		Reason          string `json:"reason"`
	} `json:"rounds"`
	Connections []struct {
		Connection string `json:"connection"`
		Kept       bool   `json:"kept"`
		Reason     string `json:"reason"`
	} `json:"connections"`
	PagesCommitted uint64   `json:"pagesCommitted"`
	PagesResidual  uint64   `json:"pagesResidual"`
	Warnings       []string `json:"warnings"`
}

// lockedLog collects what a process prints.
type lockedLog struct {
	mu    sync.Mutex
	lines strings.Builder // guarded by mu
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

// A sandbox moves there and back again, in every mode, with its memory, and counts on.
func TestMigrate(t *testing.T) {
	for _, mode := range []string{"stop", "precopy", "postcopy", "hybrid"} {
		t.Run(mode, func(t *testing.T) {
			p := newPair(t)
			c := startCounter(t, p.a.host, "web", guest.Bundle{})
			checksum := c.checksum()
			p.a.mustMigrate("web", p.b, "--mode", mode, "--verify", "--bundle", p.b.bundle("web", c.bundle))
			there := c.restored(p.b.host, "web")
			if got := there.checksum(); got != checksum {
				t.Errorf("checksum %s, before %s", got, checksum)
			}
			there.countsOn()

			p.a.must("delete", "web")
			p.b.mustMigrate("web", p.a, "--mode", mode, "--bundle", p.a.bundle("again", c.bundle))
			here := there.restored(p.a.host, "web")
			if got := here.checksum(); got != checksum {
				t.Errorf("back again: checksum %s, before %s", got, checksum)
			}
			here.countsOn()
		})
	}
}

// Redis moves while it works, and keeps every key.
func TestMigrateRedis(t *testing.T) {
	p := newPair(t)
	b := guest.Bundle{
		Args: guest.Program("redis.py"), Env: []string{"SIZE_MIB=64"},
		Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro")},
	}
	p.a.run("redis", p.a.bundle("redis", b))
	p.a.ask("redis", "work") // waits until the program answers
	before := p.a.ask("redis", "digest")
	report := p.a.mustMigrate("redis", p.b, "--verify", "--bundle", p.b.bundle("redis", b))
	if report.PagesResidual >= report.PagesCommitted/2 {
		t.Errorf("%d of %d pages were sent in the stop: pre-copy did nothing", report.PagesResidual, report.PagesCommitted)
	}
	if diff := cmp.Diff(before, p.b.ask("redis", "digest")); diff != "" {
		t.Errorf("the keys changed (-before +after):\n%s", diff)
	}
}

// What cannot move is refused before anything is touched, and goes on.
func TestMigrateRefusals(t *testing.T) {
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	bundle := p.b.bundle("web", c.bundle)
	for name, flags := range map[string][]string{
		"no bundle there":  {"--bundle", "/nowhere"},
		"unknown peer":     {"--peer", "c"},
		"nonsense mode":    {"--mode", "nonsense"},
		"nonsense connect": {"--connections", "1000"},
	} {
		if r := p.a.migrate("web", p.b, flags...); r.code == 0 {
			t.Errorf("%s: %v", name, r)
		}
		c.countsOn()
	}
	// The ID is taken there.
	p.b.run("web", bundle)
	if r := p.a.migrate("web", p.b, "--bundle", bundle); r.code == 0 || !strings.Contains(r.stderr, "E_TARGET_REFUSED") {
		t.Errorf("the ID is taken: %v", r)
	}
	c.countsOn()
	p.b.must("delete", "--force", "web")

	// It does not trust us any more.
	p.b.must("key", "remove", "a", "--data", p.b.data())
	if r := p.a.migrate("web", p.b, "--bundle", bundle); r.code == 0 || !strings.Contains(r.stderr, "E_KEY") {
		t.Errorf("not trusted: %v", r)
	}
	c.countsOn()
	if out := p.b.must("list", "--quiet"); strings.TrimSpace(out) != "" {
		t.Errorf("refused migrations left %q", out)
	}
	// The negative control: trusted again, it moves.
	p.b.must("key", "trust", "a", strings.Fields(p.a.must("key", "show", "--data", p.a.data()))[0], "--data", p.b.data())
	p.a.mustMigrate("web", p.b, "--bundle", bundle)
	c.restored(p.b.host, "web").countsOn()
}
