package e2e

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A cell of the matrix: one migration from a to b, one failpoint, one fault.
type cell struct {
	t       *testing.T
	m       *matrix
	a, b    *peerHost // as the cell's test sees them; their agents are the matrix's
	emitter *emitter
	id      string
	point   string
	fault   fault

	command *exec.Cmd
	output  *bytes.Buffer // of the command, once it has ended
	ended   chan struct{} // closed when the command has ended

	killed map[string]bool // hosts of which a fault ended the copy of the sandbox
	missed bool            // there was nothing to strike
	handed bool            // the source got so far in spite of the fault
	rearm  func() error    // ends the repetition of slow fsyncs, once
}

func newCell(t *testing.T, m *matrix, point string, f fault, id string) *cell {
	t.Helper()
	c := &cell{t: t, m: m, id: id, point: point, fault: f, killed: make(map[string]bool), ended: make(chan struct{})}
	c.a = &peerHost{host: m.a.as(t), name: "a", address: m.a.address}
	c.b = &peerHost{host: m.b.as(t), name: "b", address: m.b.address}
	c.emitter = newEmitter(t, "a", "b")
	t.Cleanup(func() {
		c.a.try("delete", "--force", id)
		c.b.try("delete", "--force", id)
	})
	c.a.run(id, c.a.bundle(id, c.emitter.bundles["a"]))
	c.emitter.hears(t, "a")
	return c
}

// migrate starts the migration and returns when it waits at the cell's point.
func (c *cell) migrate() {
	c.t.Helper()
	f := c.m.failpoints[hostOf(c.point)]
	f.arm(c.t, c.point)
	c.t.Cleanup(func() { f.release(c.point) })
	c.command, c.output = c.a.startMigrating(c.id, c.b, c.b.bundle(c.id, c.emitter.bundles["b"]))
	go func() {
		c.command.Wait()
		close(c.ended)
	}()
	eventually(c.t, c.point+" is reached", func() bool {
		select {
		case <-c.ended:
			c.t.Fatalf("the migration ended without reaching %s: %s", c.point, c.output)
		default:
		}
		return f.reached(c.point)
	})
}

// hostOf says on which host a point is.
func hostOf(point string) string {
	if strings.HasPrefix(point, "target-") {
		return "b"
	}
	return "a"
}

// goOn lets who waits at the cell's point go on.
func (c *cell) goOn() { c.m.failpoints[hostOf(c.point)].release(c.point) }

// untilEnded lasts until the command has ended.
func (c *cell) untilEnded() {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(commandLimit):
		c.command.Process.Signal(syscall.SIGQUIT) // it prints where it hangs
		<-c.ended
		c.t.Fatalf("the command does not end: %s", c.output)
	}
}

// untilNoticed lasts until a link's silence was noticed. Before the hand-over the migration must end while the link is still cut, and the
// sandbox must go on at the source; afterwards the source asks until it knows, and there is nothing to see.
func (c *cell) untilNoticed() {
	c.t.Helper()
	if !c.handedOver() && !c.handsOver() {
		c.untilEnded()
		c.emitter.hears(c.t, "a")
		return
	}
	select {
	case <-c.ended:
	case <-time.After(cutFor):
	}
}

// handsOver waits for the end of a migration whose source was held when it had sent everything, or for its hand-over: the target may have answered
// before the link was cut. Elsewhere it cannot have.
func (c *cell) handsOver() bool {
	c.t.Helper()
	if c.point != "source-sent" {
		return false
	}
	eventually(c.t, "the migration ends or is handed over", func() bool {
		select {
		case <-c.ended:
			return true
		default:
			c.handed = c.a.attempts()[c.id] == "handed-over"
			return c.handed
		}
	})
	return c.handed
}

// handedOver says whether the source does not take the sandbox back by itself, from the cell's point on.
func (c *cell) handedOver() bool { return c.handed || c.from("source-prepared") }

// from says whether the cell's point is another one or comes after it.
func (c *cell) from(point string) bool {
	return slices.Index(points, c.point) >= slices.Index(points, point)
}

// settle waits until the migration is over by itself, or resolves it, and returns where the sandbox runs, in the matrix's words.
func (c *cell) settle() (outcome string) {
	c.t.Helper()
	c.untilEnded()
	resolved := c.conclude()
	var onA, onB specs.ContainerState
	eventually(c.t, "the sandbox settles", func() bool {
		onA, onB = c.a.status(c.id), c.b.status(c.id)
		if onA == specs.StateRunning && onB == specs.StateRunning {
			c.t.Fatal("two copies run")
		}
		return settled(onA) && settled(onB) && (onA != onB || c.mayBeLost())
	})
	order := "a"
	switch {
	case onA == specs.StateRunning:
		outcome = "source"
		c.emitter.hears(c.t, "a")
		if resolved && strings.Contains(c.emitter.order(), "b") {
			order = "aba" // an operator has said that the copy on b is gone: it was killed
		}
	case onB == specs.StateRunning:
		outcome, order = "target", "ab"
		c.emitter.hears(c.t, "b")
	default:
		outcome = "lost"
		if c.killed["b"] {
			order = c.emitter.order() // it may have run there
		}
	}
	if got := c.emitter.order(); got != order || len(got) > 1 && !strings.HasPrefix(got, "ab") {
		c.t.Errorf("packets came from %q in this order, want %q: %+v", got, order, c.emitter.seen())
	}
	if twice := c.emitter.fromBoth(); len(twice) > 0 && order != "aba" {
		c.t.Errorf("packets %v came from both hosts", twice)
	}
	if !c.handedOver() && outcome == "target" && !c.missed && !c.fault.harmless {
		c.t.Errorf("it runs on the target, whatever failed before it was handed over")
	}
	if resolved {
		outcome = "r:" + outcome
	}
	if c.missed {
		outcome = "(" + outcome + ")"
	}
	return outcome
}

// conclude waits until the migration is on record as over on both hosts, or decides where only an operator can: on b it is gone, on a it
// is the one. It says whether that was needed.
func (c *cell) conclude() (resolved bool) {
	c.t.Helper()
	eventually(c.t, "the migration is over", func() bool {
		onA, onB := c.a.attempts()[c.id], c.b.attempts()[c.id]
		if onA == "handed-over" && !resolved && c.needsDecision() {
			resolved = true
			if onB != "" {
				c.b.must("resolve", "--elsewhere", "--data", c.b.data(), c.id)
			}
			c.a.must("resolve", "--here", "--data", c.a.data(), c.id)
		}
		return onA == "" && onB == ""
	})
	return resolved
}

// needsDecision says whether the source's agent has said so.
func (c *cell) needsDecision() bool {
	for line := range strings.Lines(c.m.a.log.String()) {
		if strings.Contains(line, "sandbox="+c.id+" ") && strings.Contains(line, "a decision is needed") {
			return true
		}
	}
	return false
}

// mayBeLost says whether what a fault ended may have been the copy that counted.
func (c *cell) mayBeLost() bool {
	return c.killed["a"] || c.killed["b"] && c.from("target-started")
}

// status returns the state of a sandbox on a host, "" if there is none.
func (h *peerHost) status(id string) specs.ContainerState {
	h.t.Helper()
	r := h.try("state", id)
	var state specs.State
	if r.code != 0 {
		return ""
	}
	if err := json.Unmarshal([]byte(r.stdout), &state); err != nil {
		h.t.Fatalf("%v: %v", err, r)
	}
	return state.Status
}

// settled says whether a copy in a state will stay in it by itself.
func settled(s specs.ContainerState) bool {
	return s == "" || s == specs.StateRunning || s == specs.StateStopped
}
