package dirty

import (
	"context"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// loopHost runs applications that make no system call: a Switch returns only when
// it is interrupted.
type loopHost struct {
	*fakeHost
	entered chan struct{} // receives one for each Switch
}

func (h *loopHost) NewContext(gcontext.Context) platform.Context {
	return &loopContext{host: h, interrupts: make(chan struct{}, 1)}
}

type loopContext struct {
	platform.Context
	host       *loopHost
	interrupts chan struct{}
	slept      int
}

func (c *loopContext) Switch(gcontext.Context, platform.MemoryManager, *arch.Context64, int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	c.host.entered <- struct{}{}
	<-c.interrupts
	return nil, hostarch.NoAccess, platform.ErrContextInterrupt
}

func (c *loopContext) Interrupt() {
	select {
	case c.interrupts <- struct{}{}:
	default:
	}
}

func (c *loopContext) PrepareSleep() { c.slept++ }
func (c *loopContext) Release()      {}

// loop is a task whose application never makes a system call.
type loop struct {
	t       *testing.T
	tracker *Tracker
	mm      *fakeMM
	ctx     platform.Context
	inner   *loopContext
	entered <-chan struct{}
	ended   chan struct{} // receives one for each Switch of the Tracker that ends
}

func newLoop(t *testing.T) *loop {
	h := &loopHost{fakeHost: newFakeHost(16), entered: make(chan struct{}, 1)}
	tr := Wrap(h, Options{})
	tr.main = h.main
	space, err := tr.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	ctx := tr.NewContext(nil)
	return &loop{
		t: t, tracker: tr, ctx: ctx, inner: ctx.(*switchContext).Context.(*loopContext), entered: h.entered,
		mm: &fakeMM{space: space, regs: arch.New(arch.Host)}, ended: make(chan struct{}),
	}
}

// run begins a Switch.
func (l *loop) run() {
	go func() {
		if _, _, err := l.ctx.Switch(nil, l.mm, l.mm.regs, -1); err != platform.ErrContextInterrupt {
			l.t.Errorf("switch: %v", err)
		}
		l.ended <- struct{}{}
	}()
}

func (l *loop) wait(c <-chan struct{}, what string) {
	l.t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		l.t.Fatalf("never happened: %s", what)
	}
}

// TestGate has a loop put out of its CPU when the gate shuts, wait while it is
// shut and go on when it opens.
func TestGate(t *testing.T) {
	l := newLoop(t)
	l.run()
	l.wait(l.entered, "the application runs")
	l.tracker.throttle.shutGate()
	l.wait(l.ended, "the gate interrupts")
	l.run()
	if l.ran() {
		t.Fatal("the application runs though the gate is shut")
	}
	l.tracker.throttle.openGate()
	l.wait(l.entered, "the application runs again")
	if l.inner.slept == 0 {
		t.Error("the platform was not told that its context sleeps")
	}
	l.ctx.Interrupt()
	l.wait(l.ended, "the kernel interrupts")

	l.ctx.Release()
	if n := len(l.tracker.throttle.contexts); n != 0 {
		t.Errorf("%d contexts after the last was released", n)
	}
}

// ran says whether the application runs, after having had some time to begin. On a
// slow machine it may be wrong in favour of the tested code only.
func (l *loop) ran() bool {
	select {
	case <-l.entered:
		return true
	case <-time.After(50 * time.Millisecond):
		return false
	}
}

// TestGateGivesWayToTheKernel interrupts a task that waits at the gate, as a pause
// and a signal do, and one that is just about to wait there.
func TestGateGivesWayToTheKernel(t *testing.T) {
	for _, early := range []bool{false, true} {
		l := newLoop(t)
		l.tracker.throttle.shutGate()
		if early {
			l.ctx.Interrupt()
		}
		l.run()
		if !early {
			l.ctx.Interrupt()
		}
		l.wait(l.entered, "the interrupt reaches the platform")
		l.wait(l.ended, "the task is back in the kernel")
		// The interrupt was for once.
		l.run()
		if l.ran() {
			t.Errorf("early %v: an old interrupt opened the gate", early)
		}
		l.tracker.throttle.openGate()
		l.wait(l.entered, "the gate opens")
		l.ctx.Interrupt()
		l.wait(l.ended, "the kernel interrupts")
	}
}

// TestThrottle takes time from a loop and gives it back.
func TestThrottle(t *testing.T) {
	l := newLoop(t)
	l.run()
	l.wait(l.entered, "the application runs")
	for _, percent := range []int{20, MaxThrottlePercent} {
		if err := l.tracker.Throttle(percent); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			l.wait(l.ended, "the throttle interrupts")
			l.run()
			l.wait(l.entered, "the throttle lets the application run")
		}
	}
	if err := l.tracker.Throttle(0); err != nil {
		t.Fatal(err)
	}
	if l.tracker.throttle.shut.Load() != nil {
		t.Error("the gate is shut after the throttle was lifted")
	}
	// An interrupt of the throttle may be left over. After that nothing interrupts.
	ctx, cancel := context.WithTimeout(t.Context(), 10*throttlePeriod)
	defer cancel()
	left := 0
	for ctx.Err() == nil {
		select {
		case <-l.ended:
			left++
			l.run()
			l.wait(l.entered, "the application runs")
		case <-ctx.Done():
		}
	}
	if left > 1 {
		t.Errorf("the application was interrupted %d times after the throttle was lifted", left)
	}
	l.ctx.Interrupt()
	l.wait(l.ended, "the kernel interrupts")
}

// TestThrottleKeepsTracking has an application that waits at the gate write to a
// protected page: the gate is in front of a fault's second try too.
func TestThrottleKeepsTracking(t *testing.T) {
	host := newFakeHost(16)
	tr := host.tracker(Options{})
	mm := newFakeMM(tr)
	if err := mm.mapPages(0, host.main, 0, 16, hostarch.ReadWrite); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Arm(); err != nil {
		t.Fatal(err)
	}
	mm.inner.onFault = func() {
		tr.throttle.shutGate()
		go tr.throttle.openGate()
	}
	if wrote, ended := mm.write(3); !wrote || !ended {
		t.Fatalf("wrote %v, ended %v", wrote, ended)
	}
	set, _, err := tr.Collect()
	if err != nil || !set.Has(3) {
		t.Errorf("the page is not dirty: %v", err)
	}
}

func TestThrottleShares(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		percent          int
		open, took, shut time.Duration
	}{
		{20, 16 * ms, 16 * ms, 4 * ms},
		{50, 10 * ms, 10 * ms, 10 * ms},
		{80, 4 * ms, 4 * ms, 16 * ms},
		{95, 1 * ms, 1 * ms, 19 * ms},
		{95, 1 * ms, 2 * ms, 38 * ms}, // the host was late
		{95, 1 * ms, time.Hour, longestShut},
		{1, 19800 * time.Microsecond, 99 * ms, 1 * ms},
	} {
		if got := openFor(c.percent); got != c.open {
			t.Errorf("%d %%: open for %v, want %v", c.percent, got, c.open)
		}
		if got := shutFor(c.percent, c.took); got != c.shut {
			t.Errorf("%d %%, open for %v: shut for %v, want %v", c.percent, c.took, got, c.shut)
		}
	}
	tr := newFakeHost(1).tracker(Options{})
	for _, percent := range []int{-1, MaxThrottlePercent + 1} {
		if tr.Throttle(percent) == nil {
			t.Errorf("throttled by %d %%", percent)
		}
	}
}

// BenchmarkSwitch is what a Switch costs beside the wrapped one, at its cheapest.
func BenchmarkSwitch(b *testing.B) {
	host := newFakeHost(16)
	mm := newFakeMM(host.tracker(Options{}))
	mm.mapPages(0, host.main, 0, 16, hostarch.ReadWrite)
	for b.Loop() {
		mm.write(1)
	}
}
