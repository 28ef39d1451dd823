package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A migration fails after the gate was shut and the addresses were announced on the target, up to the last moment before the commit:
// the connections go on at the source, without a reset or a wrong byte, and the next migration succeeds.
func TestMigrateRollbackKeepsConnections(t *testing.T) {
	const bytesPerSecond = 5_000_000
	f := newFailpoints(t)
	l := newLab(t)
	client := l.client()
	p := newPair(t)
	p.a.run("web", p.a.bundle("web", networked(l.server(true), "stream.py")))
	p.a.ask("web", "retransmitted") // waits until the program answers
	stop := make(chan struct{})
	flows := []*flow{
		download(t, client, serverAddress, bytesPerSecond), upload(t, client, serverAddress, bytesPerSecond, stop),
		download(t, client, serverAddress6, bytesPerSecond), upload(t, client, serverAddress6, bytesPerSecond, stop),
	}
	for _, c := range []struct {
		point string
		spoil func() // spoils the migration at the point
	}{
		{"target-announced", func() {
			if standby, _ := p.b.sandboxPIDs("web"); standby != 0 {
				syscall.Kill(standby, syscall.SIGKILL)
			}
		}},
		{"target-loaded", func() { p.b.stopAgent(syscall.SIGKILL) }},
		{"source-prepared", func() { p.a.must("cancel", "--data", p.a.data(), "web") }},
	} {
		flowsOn(t, flows, bytesPerSecond/4)
		spoilAt(t, f, p, c.point, p.b.bundle(c.point, networked(l.server(false), "stream.py")), c.spoil)
		flowsOn(t, flows, bytesPerSecond/4)
		for _, f := range flows {
			longest, _ := f.stall()
			t.Logf("%s: %s stood still for %v at the longest", c.point, f.name, longest.Round(time.Millisecond))
		}
	}
	p.a.mustMigrate("web", p.b, "--bundle", p.b.bundle("web", networked(l.server(false), "stream.py")))
	flowsOn(t, flows, bytesPerSecond/4)
	close(stop)
	for _, f := range []*flow{flows[1], flows[3]} {
		if err := <-f.done; err != nil {
			t.Errorf("upload: %v", err)
		}
	}
}

// spoilAt lets a migration fail at a point. The sandbox goes on where it was.
func spoilAt(t *testing.T, f failpoints, p *pair, point, bundle string, spoil func()) {
	t.Helper()
	f.arm(t, point)
	defer f.release(point)
	cmd, out := p.a.startMigrating("web", p.b, bundle)
	eventually(t, point+" is reached", func() bool { return f.reached(point) })
	spoil()
	f.release(point)
	if err := cmd.Wait(); err == nil {
		t.Fatalf("%s: the migration succeeds: %s", point, out)
	}
	p.a.wantStatus("web", specs.StateRunning)
	if p.b.agent == nil {
		p.b.startAgent()
	}
	eventually(t, "the target forgets", func() bool { return p.b.try("state", "web").code != 0 })
}
