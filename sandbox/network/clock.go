package network

import (
	"context"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A kernel save pauses tasks and netstack's packet processors, but not
// netstack's timers. With the gate shut no acknowledgement comes, so the loss
// probe of a busy connection fires after a few round trips, in the middle of the
// save, and changes the very lists that are being written. Such a state loads,
// and then panics, or sends bytes from the wrong place of the stream. So the
// stack gets a clock whose callbacks can be held back.

// freezableClock is a tcpip.Clock that can hold back its callbacks. Time itself
// goes on. It is saved with the stack; a loaded clock is not frozen.
type freezableClock struct {
	inner tcpip.Clock

	// running is held for reading while a callback runs.
	running sync.RWMutex

	// mu guards what follows. Lock order: running -> mu.
	mu     sync.Mutex
	frozen bool
	due    []func()

	// luggage is carried through a save. It is touched only while tasks are paused.
	luggage luggage
}

// newFreezableClock wraps a clock, once: stacks that are given the same freezable
// clock stand still together.
func newFreezableClock(inner tcpip.Clock) *freezableClock {
	if c, ok := inner.(*freezableClock); ok {
		return c
	}
	return &freezableClock{inner: inner}
}

// Now implements tcpip.Clock.
func (c *freezableClock) Now() time.Time { return c.inner.Now() }

// NowMonotonic implements tcpip.Clock.
func (c *freezableClock) NowMonotonic() tcpip.MonotonicTime { return c.inner.NowMonotonic() }

// AfterFunc implements tcpip.Clock. A callback that is held back counts as
// started: Stop returns false, and who set the timer must cope, as always.
func (c *freezableClock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.inner.AfterFunc(d, func() { c.run(f) })
}

func (c *freezableClock) run(f func()) {
	c.running.RLock()
	defer c.running.RUnlock()
	c.mu.Lock()
	if c.frozen {
		c.due = append(c.due, f)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	f()
}

// freeze returns when no callback runs; later ones wait for thaw.
func (c *freezableClock) freeze() {
	c.running.Lock()
	defer c.running.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = true
}

func (c *freezableClock) thaw() {
	c.mu.Lock()
	due := c.due
	c.frozen, c.due = false, nil
	c.mu.Unlock()
	for _, f := range due {
		go c.run(f)
	}
}

// Quiesce brings a stack to rest for a save: the gates hold what comes and goes,
// and no timer of the stack fires any more. Tasks must be paused already. Every
// save of a running kernel needs it, also one after which the sandbox goes on. After an
// error, which says what cannot be saved, Resume is needed all the same.
func Quiesce(s *stack.Stack, gates *Gates) (err error) {
	gates.Hold()
	for _, c := range []tcpip.Clock{s.Clock(), gates.clock} {
		if c, ok := c.(*freezableClock); ok {
			c.freeze()
		}
	}
	if c, ok := s.Clock().(*freezableClock); ok {
		c.luggage, err = pack(s)
	}
	return err
}

// Resume undoes Quiesce after the save or on a rollback, or starts a loaded
// stack: timers run, and the gates pass what they held and open. It returns how
// many frames passed.
func Resume(s *stack.Stack, gates *Gates) int {
	if c, ok := s.Clock().(*freezableClock); ok {
		c.luggage = luggage{}
	}
	for _, c := range []tcpip.Clock{s.Clock(), gates.clock} {
		if c, ok := c.(*freezableClock); ok {
			c.thaw()
		}
	}
	return gates.Open()
}

const clockStateName = "sbxmigrate/sandbox/network.freezableClock"

func init() {
	// The state package finds types by name before any of our code runs.
	state.Register((*freezableClock)(nil))
}

// StateTypeName implements state.Type.
func (c *freezableClock) StateTypeName() string { return clockStateName }

// StateFields implements state.Type.
func (c *freezableClock) StateFields() []string {
	return []string{"inner", "protocolSecrets", "listeners", "listenerSecrets", "filters"}
}

// StateSave implements state.SaverLoader.
func (c *freezableClock) StateSave(sink state.Sink) {
	sink.Save(0, &c.inner)
	sink.Save(1, &c.luggage.secrets.protocol)
	sink.Save(2, &c.luggage.secrets.listeners)
	sink.Save(3, &c.luggage.secrets.listenerSecrets)
	sink.Save(4, &c.luggage.filters)
}

// StateLoad implements state.SaverLoader.
func (c *freezableClock) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &c.inner)
	source.Load(1, &c.luggage.secrets.protocol)
	source.Load(2, &c.luggage.secrets.listeners)
	source.Load(3, &c.luggage.secrets.listenerSecrets)
	source.Load(4, &c.luggage.filters)
}
