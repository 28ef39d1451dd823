package network

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestFrozenClockHoldsCallbacksBack(t *testing.T) {
	c := newFreezableClock(tcpip.NewStdClock())
	var fired atomic.Int32
	var wg sync.WaitGroup
	wg.Add(2)
	callback := func() { fired.Add(1); wg.Done() }
	c.freeze()
	c.AfterFunc(0, callback)
	c.AfterFunc(time.Millisecond, callback)
	// Wait until both are due; none may have run.
	for due := 0; due < 2; {
		c.mu.Lock()
		due = len(c.due)
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	if n := fired.Load(); n != 0 {
		t.Errorf("%d callbacks ran while the clock was frozen", n)
	}
	c.thaw()
	wg.Wait()
	if len(c.due) != 0 {
		t.Errorf("%d callbacks left", len(c.due))
	}
}

func TestFreezeWaitsForRunningCallbacks(t *testing.T) {
	c := newFreezableClock(tcpip.NewStdClock())
	started, release := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	c.AfterFunc(0, func() {
		close(started)
		<-release
		ended.Store(true)
	})
	<-started
	frozen := make(chan struct{})
	go func() { c.freeze(); close(frozen) }()
	select {
	case <-frozen:
		t.Error("freeze returned while a callback ran")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	<-frozen
	if !ended.Load() {
		t.Error("freeze returned before the callback ended")
	}
	c.thaw()
}

func TestStoppedTimerDoesNotFire(t *testing.T) {
	c := newFreezableClock(tcpip.NewStdClock())
	timer := c.AfterFunc(time.Hour, func() { t.Error("fired") })
	if !timer.Stop() {
		t.Error("Stop of a waiting timer returned false")
	}
}
