package dirty

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxThrottlePercent is the most that Throttle takes: what runs not at all
	// never lets go of what others wait for.
	MaxThrottlePercent = 95

	// throttlePeriod is how long the application runs and waits in turn. A client
	// waits at most about that much longer for an answer.
	throttlePeriod = 20 * time.Millisecond
	// longestShut bounds how long the application waits at once, where the host
	// was so busy that it ran for much longer than its share.
	longestShut = 5 * throttlePeriod
)

// throttle takes time from the application by a gate in front of every Switch,
// which is shut for a share of each period. One gate for all tasks takes the same
// share from a program of one thread and from one of a thousand, which a pause for
// each task would not: others would run in its place.
type throttle struct {
	// shut is closed when the gate opens; nil while it is open, which is all that
	// a Switch looks at.
	shut atomic.Pointer[chan struct{}]

	contextsMu sync.Mutex
	contexts   map[*switchContext]struct{} // guarded by contextsMu

	// turnMu is held while the goroutine that opens and shuts is started or ended.
	turnMu sync.Mutex
	stop   chan struct{} // closing it ends the goroutine; nil without one
	done   chan struct{} // closed when it has ended
}

// Throttle takes a share of its time from the application, from now on: 0, the
// default, is nothing, and MaxThrottlePercent the most. What the sentry does for the
// application is not cut short, but the application waits for the gate after it.
func (t *Tracker) Throttle(percent int) error {
	if percent < 0 || percent > MaxThrottlePercent {
		return fmt.Errorf("cannot throttle by %d %%, want 0 to %d", percent, MaxThrottlePercent)
	}
	if percent > 0 && t.options.Off {
		return fmt.Errorf("cannot throttle: %w: the tracker is off", ErrUnsupported)
	}
	g := &t.throttle
	g.turnMu.Lock()
	defer g.turnMu.Unlock()
	if g.stop != nil {
		close(g.stop)
		<-g.done
		g.stop = nil
	}
	if percent > 0 {
		g.stop, g.done = make(chan struct{}), make(chan struct{})
		go g.take(percent, g.stop, g.done)
	}
	return nil
}

// take opens and shuts the gate until it is stopped, and leaves it open.
func (g *throttle) take(percent int, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	defer g.openGate()
	for {
		began := time.Now()
		if stopped(stop, openFor(percent)) {
			return
		}
		g.shutGate()
		if stopped(stop, shutFor(percent, time.Since(began))) {
			return
		}
		g.openGate()
	}
}

// openFor returns how long the gate is to be open in each period.
func openFor(percent int) time.Duration {
	return throttlePeriod * time.Duration(100-percent) / 100
}

// shutFor returns how long the gate must be shut after it was open. It asks how
// long it was and not how long it should have been: on a busy host this comes late.
func shutFor(percent int, open time.Duration) time.Duration {
	return min(open*time.Duration(percent)/time.Duration(100-percent), longestShut)
}

// stopped waits, and reports whether it was stopped meanwhile.
func stopped(stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-stop:
		return true
	case <-timer.C:
		return false
	}
}

// shutGate lets nobody in, and gets those out that run the application.
func (g *throttle) shutGate() {
	opened := make(chan struct{})
	g.shut.Store(&opened)
	g.contextsMu.Lock()
	defer g.contextsMu.Unlock()
	for c := range g.contexts {
		// Where it does not run the application, the next Switch returns at once,
		// and the kernel calls it again.
		c.Context.Interrupt()
	}
}

// openGate may be called when it is open.
func (g *throttle) openGate() {
	if opened := g.shut.Swap(nil); opened != nil {
		close(*opened)
	}
}

// join has c interrupted when the gate shuts, until leave. Nobody may interrupt a
// context that was released.
func (g *throttle) join(c *switchContext) {
	g.contextsMu.Lock()
	defer g.contextsMu.Unlock()
	g.contexts[c] = struct{}{}
}

func (g *throttle) leave(c *switchContext) {
	g.contextsMu.Lock()
	defer g.contextsMu.Unlock()
	delete(g.contexts, c)
}

// await waits until the gate opens, or until the kernel wants this task back.
func (c *switchContext) await(opened <-chan struct{}) {
	c.Context.PrepareSleep()
	select {
	case <-opened:
	case <-c.interrupts:
	}
}

// Interrupt implements platform.Context. It ends a wait at the gate too.
func (c *switchContext) Interrupt() {
	select {
	case c.interrupts <- struct{}{}:
	default:
	}
	c.Context.Interrupt()
}

// interrupted notes that the kernel got its task back. An interrupt that comes
// right now is forgotten with the others: the kernel looks at what it is for only
// after it was told.
func (c *switchContext) interrupted() {
	select {
	case <-c.interrupts:
	default:
	}
}
