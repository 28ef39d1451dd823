package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// inBrief is what is tested where not everything is, besides the two processes that a migration goes through: every failpoint and every
// fault, where the fault can do harm.
var inBrief = map[string]string{
	"source-begun":     "slow",
	"target-welcomed":  "agent",
	"target-standby":   "gofer-b",
	"source-round":     "gofer-a",
	"source-stopped":   "cut",
	"target-announced": "host-b",
	"source-sent":      "sandbox-b",
	"target-loaded":    "both",
	"source-prepared":  "fsync-a",
	"source-disarmed":  "sandbox-a",
	"source-handed":    "host-a",
	"target-committed": "fsync-b",
	"target-owner":     "both",
	"target-started":   "cut",
	"target-complete":  "sandbox-b",
	"source-departed":  "host-b",
	"source-destroyed": "gofer-b",
}

// tested says whether a cell of the matrix is tested in this run.
func tested(point, fault string) bool {
	switch {
	case *long, inBrief[point] == fault, fault == "command":
		return true
	}
	// Before the kernel is loaded, an agent's end is that of its connections.
	return fault == "agent" && slices.Index(points, point) >= slices.Index(points, "target-loaded")
}

// Whatever fails at whatever moment of a migration: afterwards exactly one copy runs, or it ended with what was killed, or the hand-over is
// on record and resolve ends it. Never do two run: whoever watches the packets of both copies sees one stop before the other begins.
//
// The agents are in network namespaces on one bridge, the sandbox and the observer on another.
func TestMigrateFailures(t *testing.T) {
	m := newMatrix(t)
	for i, point := range points {
		for j, f := range faults {
			if !tested(point, f.name) {
				continue
			}
			t.Run(point+"/"+f.name, func(t *testing.T) {
				m.outcomes[point+"/"+f.name] = "FAILED"
				m.outcomes[point+"/"+f.name] = m.run(t, point, f, fmt.Sprintf("s%d-%d", i, j))
			})
		}
	}
	t.Logf("where the sandbox runs afterwards:\n%s", m)
}

// A matrix is two hosts on which one thing after another goes wrong.
type matrix struct {
	*pair
	wires      *lab
	failpoints map[string]failpoints // by host
	outcomes   map[string]string     // by point/fault
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	m := &matrix{wires: newLab(t), failpoints: make(map[string]failpoints), outcomes: make(map[string]string)}
	peer := func(name, mac, address string) *peerHost {
		h := &peerHost{host: newHost(t), name: name, address: address + ":7443"}
		h.ns = m.wires.machine(mac, address+"/24", true)
		m.failpoints[name] = failpoints{dir: t.TempDir()}
		h.env = []string{failpointsVariable + "=" + m.failpoints[name].dir}
		return h
	}
	m.pair = &pair{t: t, a: peer("a", "02:00:00:00:02:01", "10.9.2.1"), b: peer("b", "02:00:00:00:02:02", "10.9.2.2")}
	m.begin()
	return m
}

// String prints the matrix.
func (m *matrix) String() string {
	const column = "  %-9s"
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s", "")
	for _, f := range faults {
		fmt.Fprintf(&b, column, f.name)
	}
	for _, point := range points {
		fmt.Fprintf(&b, "\n%-16s", point)
		for _, f := range faults {
			outcome, ok := m.outcomes[point+"/"+f.name]
			if !ok {
				outcome = "."
			}
			fmt.Fprintf(&b, column, outcome)
		}
	}
	return b.String()
}

// run migrates a sandbox, lets a fault strike at a point, and returns how it ended.
func (m *matrix) run(t *testing.T, point string, f fault, id string) (outcome string) {
	c := newCell(t, m, point, f, id)
	c.migrate()
	heal := sync.OnceFunc(func() {
		if f.heal != nil {
			f.heal(c)
		}
		for _, h := range []*peerHost{m.a, m.b} {
			if h.agent == nil {
				h.startAgent()
			}
		}
	})
	defer heal()
	f.strike(c)
	c.goOn()
	if f.lasts != nil {
		f.lasts(c)
	}
	heal()
	outcome = c.settle()
	t.Logf("%s/%s: %s, packets by host: %+v", point, f.name, outcome, c.emitter.seen())
	return outcome
}
