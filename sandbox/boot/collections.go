package boot

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// gcPercent is Go's own default.
const gcPercent = 100

// collections is garbage collection of this process: it is off as long as somebody holds it, since it would take a CPU
// from something that must not wait. A process begins with one hold, by its environment: what is allocated until it has booted
// is needed.
type collections struct {
	mu   sync.Mutex
	held int // guarded by mu
}

var garbage = collections{held: 1}

// HoldCollections turns garbage collection off until release is called, once.
func HoldCollections() (release func()) {
	garbage.mu.Lock()
	defer garbage.mu.Unlock()
	garbage.held++
	debug.SetGCPercent(-1)
	return garbage.release
}

// release ends a hold. With the last one the bound ends too.
func (c *collections) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held--; c.held == 0 {
		debug.SetMemoryLimit(math.MaxInt64)
		debug.SetGCPercent(gcPercent)
	}
}

// bound sees to it that garbage is collected all the same once so much more has been allocated.
func (c *collections) bound(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	debug.SetMemoryLimit(runtimeBytes() + bytes)
}

// runtimeBytes is the memory that the Go runtime has by now, as its limit counts it.
func runtimeBytes() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// restedAfter is how long after the start garbage is first collected: all that was loaded or built would be gone through at once, while
// clients wait for their first answers, or a user for a program's first line.
const restedAfter = 500 * time.Millisecond

// restingBytes is how much may be allocated meanwhile, and while the kernel waits for its start: more where one was loaded, since that much of
// what loading has left is garbage.
func restingBytes(cfg *Config) int64 {
	if cfg.Restore != nil {
		return 256 << 20
	}
	return 64 << 20
}

// collectLater ends the hold of the environment some time after the start.
func (c *collections) collectLater() { time.AfterFunc(restedAfter, c.release) }
