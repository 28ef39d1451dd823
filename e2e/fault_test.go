package e2e

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
)

// What can go wrong at a failpoint. The processes that move memory, the pagers, are the command on the source and the agent on the target.
var faults = []fault{
	{name: "command", strike: func(c *cell) { c.command.Process.Kill() }},
	{name: "agent", strike: func(c *cell) { c.m.b.stopAgent(syscall.SIGKILL) }},
	{name: "both", strike: func(c *cell) { c.command.Process.Kill(); c.m.b.stopAgent(syscall.SIGKILL) }},
	{name: "sandbox-a", strike: func(c *cell) { c.killSandbox(c.a) }},
	{name: "sandbox-b", strike: func(c *cell) { c.killSandbox(c.b) }},
	{name: "gofer-a", harmless: true, strike: func(c *cell) { c.killGofer(c.a) }},
	{name: "gofer-b", strike: func(c *cell) { c.killGofer(c.b) }},
	{name: "host-a", strike: func(c *cell) { c.crash(c.a) }},
	{name: "host-b", strike: func(c *cell) { c.crash(c.b) }},
	{name: "cut", strike: func(c *cell) { c.m.wires.cut(wireOfA) }, lasts: (*cell).untilNoticed, heal: func(c *cell) { c.m.wires.mend(wireOfA) }},
	{name: "slow", harmless: true, strike: (*cell).slow, lasts: (*cell).untilEnded, heal: (*cell).quicken},
	{name: "fsync-a", harmless: true, strike: func(c *cell) { c.slowSync(c.a) }, lasts: (*cell).untilEnded, heal: func(c *cell) { c.quickSync(c.a) }},
	{name: "fsync-b", harmless: true, strike: func(c *cell) { c.slowSync(c.b) }, lasts: (*cell).untilEnded, heal: func(c *cell) { c.quickSync(c.b) }},
}

// A fault strikes while a process waits at a failpoint. It lasts for a while after that was released, and is healed.
type fault struct {
	name        string
	strike      func(*cell)
	lasts, heal func(*cell) // nil: over at once
	harmless    bool        // the migration may go on all the same
}

const (
	wireOfA, wireOfB = 1, 2 // the agents' machines on their bridge

	// cutFor is longer than a host needs to notice that a link is silent (agent.SilenceTimeout).
	cutFor = 13 * time.Second
	// syncTakes is how long a delayed fsync takes.
	syncTakes = 10 * time.Second
	// slowBytesPerSecond is a slow link.
	slowBytesPerSecond = 1 << 20
)

// killSandbox ends the copy of the sandbox on a host.
func (c *cell) killSandbox(h *peerHost) {
	pid, _ := h.sandboxPIDs(c.id)
	c.kill(h, pid)
}

// killGofer ends the process that serves the sandbox its files. The sandbox may go on or not.
func (c *cell) killGofer(h *peerHost) {
	_, pid := h.sandboxPIDs(c.id)
	c.kill(h, pid)
}

func (c *cell) kill(h *peerHost, pid int) {
	if pid == 0 {
		c.missed = true
		return
	}
	c.killed[h.name] = true
	syscall.Kill(pid, syscall.SIGKILL)
}

// dead says whether a process has ended with all of its threads, whether or not its parent has noticed.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	state := stat[bytes.LastIndexByte(stat, ')')+1:] // behind the name, which may have any character
	return err != nil || bytes.HasPrefix(state, []byte(" Z")) && len(threads) <= 1
}

// crash ends all processes of a host and empties its /run: what a power failure leaves, once the host has started again.
func (c *cell) crash(h *peerHost) {
	whole := c.m.b
	if h == c.a {
		whole = c.m.a
		c.command.Process.Kill()
	}
	whole.stopAgent(syscall.SIGKILL)
	c.killSandbox(h)
	c.killGofer(h)
	c.missed = false // there is always an agent
	if err := os.RemoveAll(h.state); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cell) slow() {
	c.m.wires.slow(wireOfA, slowBytesPerSecond)
	c.m.wires.slow(wireOfB, slowBytesPerSecond)
}

func (c *cell) quicken() {
	c.m.wires.quicken(wireOfA)
	c.m.wires.quicken(wireOfB)
}

// slowSync lets each fsync of a host's journals take long; where not everything is tested, the next one only.
func (c *cell) slowSync(h *peerHost) {
	f := c.m.failpoints[h.name]
	c.rearm = func() error { return nil }
	if err := f.slowSync(syncTakes); err != nil {
		c.t.Fatal(err)
	}
	if !*long {
		return
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- f.slowEachSync(stop) }()
	c.rearm = func() error {
		close(stop)
		return <-ended
	}
}

// slowEachSync slows the next fsync whenever one has been slow, until stop is closed.
func (f failpoints) slowEachSync(stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(100 * time.Millisecond):
			if !f.reached(syncPoint) {
				continue
			}
			f.release(syncPoint)
			if err := f.slowSync(syncTakes); err != nil {
				return err
			}
		}
	}
}

func (c *cell) quickSync(h *peerHost) {
	// Nothing may arm the point again once it is released.
	if err := c.rearm(); err != nil {
		c.t.Error(err)
	}
	c.m.failpoints[h.name].release(syncPoint)
}
