package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundlesOn writes the bundles of a counting pod on a host, and returns the flags that name them.
func (p *pod) bundlesOn(h *peerHost) []string {
	return []string{
		"--bundle", h.bundle("pod", p.bundles["pod"]),
		"--bundle", "redis=" + h.bundle("redis", p.bundles["redis"]), "--bundle", "client=" + h.bundle("client", p.bundles["client"]),
	}
}

var podIDs = []string{"pod", "redis", "client"}

// A sandbox moves with all of its containers, there by pre-copy and back by post-copy: the client keeps its connection, each container has its
// state, its output and its exit status.
func TestMigrateContainers(t *testing.T) {
	p := newPair(t)
	c := startCountingPod(t, p.a.host)
	before, n := c.digest(p.a.host), podCount(p.a.host, "client")
	for move, mode := range []string{"precopy", "postcopy"} {
		from, to := p.a, p.b
		if move == 1 {
			from, to = p.b, p.a
			for _, id := range podIDs {
				to.must("delete", id)
			}
		}
		from.mustMigrate("pod", to, append(c.bundlesOn(to), "--mode", mode, "--verify")...)
		for _, id := range podIDs {
			from.wantMigrated(id, to)
			to.wantStatus(id, specs.StateRunning)
		}
		if after := c.digest(to.host); after != before {
			t.Errorf("after move %d the content is\n%s, was\n%s", move, after, before)
		}
		if later := podCount(to.host, "client"); later < n {
			t.Errorf("the client is at %d, it was at %d", later, n)
		}
		podCountsOn(to.host, "client")
		n = podCount(to.host, "client")
	}
	p.a.must("kill", "redis", "KILL")
	if r := p.a.try("wait", "client"); r.code == 0 {
		t.Errorf("the client ends well without its server: %v", r)
	}
	if log := p.a.must("logs", "--output", "client"); !strings.Contains(log, "Error") {
		t.Errorf("the client printed %q", log)
	}
	p.a.wantStatus("pod", specs.StateRunning)
	p.a.must("delete", "client")
	p.a.must("delete", "redis")
}

// What does not fit on the target is refused with all of it at once, and the sandbox goes on.
func TestMigrateContainersRefusals(t *testing.T) {
	p := newPair(t)
	c := startCountingPod(t, p.a.host)
	flags := c.bundlesOn(p.b)
	wrong := c.bundles["client"]
	wrong.Writable, wrong.Terminal = true, true
	flags[5] = "client=" + p.b.bundle("wrong", wrong)
	r := p.a.migrate("pod", p.b, flags...)
	for _, want := range []string{"E_TARGET_REFUSED", "terminal: container client", "E_ENV_BECAME_WRITABLE: mount / of container client"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("a wrong bundle of the client: no %q in %v", want, r)
		}
	}
	if r := p.a.migrate("pod", p.b, append(c.bundlesOn(p.b), "--bundle", "client2="+p.b.path("x"))...); r.code == 0 || !strings.Contains(r.stderr, `"client2"`) {
		t.Errorf("a bundle for nobody: %v", r)
	}
	flags[5] = "client=/nowhere"
	if r := p.a.migrate("pod", p.b, flags...); !strings.Contains(r.stderr, "bundle: container client") {
		t.Errorf("no bundle for the client: %v", r)
	}
	if r := p.a.migrate("redis", p.b); !strings.Contains(r.stderr, "E_STATE") {
		t.Errorf("one container alone: %v", r)
	}
	p.b.run("client", p.b.bundle("other", c.bundles["pod"]))
	if r := p.a.migrate("pod", p.b, c.bundlesOn(p.b)...); !strings.Contains(r.stderr, "exists: container client") {
		t.Errorf("the ID is taken: %v", r)
	}
	podCountsOn(p.a.host, "client")
	if left := strings.TrimSpace(p.b.must("list", "--quiet")); left != "client" {
		t.Errorf("the target has %q", left)
	}
}

// Whatever fails on the way, all containers run on one host, and nothing of them is left on the other.
func TestMigrateContainersFailures(t *testing.T) {
	f := newFailpoints(t)
	p := newPair(t)
	c := startCountingPod(t, p.a.host)
	flags := c.bundlesOn(p.b)
	begin := func(point string) *move {
		t.Helper()
		f.arm(t, point)
		m := p.a.startMove("pod", p.b, flags...)
		eventually(t, point+" is reached", func() bool { return f.reached(point) })
		return m
	}
	killAgent := func() { p.b.stopAgent(syscall.SIGKILL) }
	for _, fault := range []struct {
		name, point string
		strike      func()
	}{
		{"the target's agent is killed", "target-standby", killAgent},
		{"the target's agent is killed", "target-loaded", killAgent},
		{"a gofer on the target is killed", "target-loaded", func() {
			_, gofer := p.b.sandboxPIDs("redis")
			syscall.Kill(gofer, syscall.SIGKILL)
		}},
		{"the sandbox on the target is killed", "source-prepared", func() {
			sandbox, _ := p.b.sandboxPIDs("pod")
			syscall.Kill(sandbox, syscall.SIGKILL)
			// One that is still dying when the source commits leaves the decision to a person.
			eventually(t, "it is dead", func() bool { return dead(sandbox) })
		}},
	} {
		m := begin(fault.point)
		fault.strike()
		f.release(fault.point)
		if err := m.wait(); err == nil {
			t.Fatalf("%s at %s, and it moves all the same", fault.name, fault.point)
		}
		if p.b.agent == nil {
			p.b.startAgent()
		}
		eventually(t, "the target forgets after "+fault.name+" at "+fault.point, func() bool { return strings.TrimSpace(p.b.must("list", "--quiet")) == "" })
		podCountsOn(p.a.host, "client")
	}
	// A container that comes on the way moves with the second attempt.
	m := begin("source-round")
	third := c.add("third", c.bundles["pod"])
	p.a.run("third", third)
	f.release("source-round")
	m.mustEnd()
	for _, id := range append([]string{"third"}, podIDs...) {
		p.a.wantMigrated(id, p.b)
		p.b.wantStatus(id, specs.StateRunning)
	}
	podCountsOn(p.b.host, "client")
	// The agent is not needed by who has arrived.
	killAgent()
	p.b.must("kill", "third", "KILL")
	if r := p.b.try("wait", "third"); r.code != 137 {
		t.Error(r)
	}
	podCountsOn(p.b.host, "client")
	p.b.startAgent()
}
