package dirty

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// maxStale bounds how often one Switch goes on after a fault on a mapping that
// other threads keep changing, before it lets the kernel look at it.
const maxStale = 16

// switchContext is a platform.Context that handles the write faults of
// tracking. Like what it wraps, it is used by one task goroutine.
type switchContext struct {
	platform.Context
	tracker *Tracker

	// view is what the wrapped Switch is given. It is part of the context to
	// save an allocation on each Switch.
	view memoryView

	// madvised is the range of an madvise(2) that the kernel is handling since
	// the last Switch.
	madvised span

	// joined says that the throttle knows of this context. A context that never
	// runs need not be released, so that it must not know of it.
	joined bool
	// interrupts holds one if the kernel has interrupted this since the last
	// Switch that said so.
	interrupts chan struct{}
}

// memoryView is a MemoryManager with the wrapped AddressSpace, which is the one
// that the wrapped platform knows.
type memoryView struct {
	platform.MemoryManager
	space platform.AddressSpace
}

// AddressSpace implements platform.MemoryManager.
func (v *memoryView) AddressSpace() platform.AddressSpace {
	return v.space
}

// Switch implements platform.Context.
func (c *switchContext) Switch(ctx context.Context, mm platform.MemoryManager, ac *arch.Context64, cpu int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	space := mm.AddressSpace().(*addressSpace)
	if !c.joined {
		c.tracker.throttle.join(c)
		c.joined = true
	}
	c.finishMadvise(space)
	c.view = memoryView{mm, space.AddressSpace}
	for stale := 0; ; {
		if opened := c.tracker.throttle.shut.Load(); opened != nil {
			c.await(*opened)
		}
		seen := space.generation.Load()
		info, at, err := c.Context.Switch(ctx, &c.view, ac, cpu)
		switch {
		case err == nil:
			if ac.SyscallNo() == unix.SYS_MADVISE && c.tracker.marksMadvise() {
				c.beginMadvise(space, ac)
			}
		case err == platform.ErrContextInterrupt:
			c.interrupted()
		case err == platform.ErrContextSignal && at.Write && info.Signo == int32(linux.SIGSEGV):
			switch space.fault(info.Addr(), seen) {
			case faultOpened:
				continue
			case faultStale:
				if stale++; stale <= maxStale {
					continue
				}
			}
		}
		return info, at, err
	}
}

// PullFullState implements platform.Context.
func (c *switchContext) PullFullState(as platform.AddressSpace, ac *arch.Context64) error {
	if a, ok := as.(*addressSpace); ok {
		as = a.AddressSpace
	}
	return c.Context.PullFullState(as, ac)
}

// Release implements platform.Context.
func (c *switchContext) Release() {
	c.tracker.throttle.leave(c)
	c.Context.Release()
	c.view = memoryView{}
}

// marksMadvise says whether an madvise(2) makes pages dirty.
func (t *Tracker) marksMadvise() bool {
	return t.armed.Load() && t.options.Disable&RuleReusedFrames == 0
}

// beginMadvise marks the range of an madvise(2) that the kernel is about to
// handle: it may decommit pages that stay mapped.
func (c *switchContext) beginMadvise(space *addressSpace, ac *arch.Context64) {
	args := ac.SyscallArgs()
	start := args[0].Uint64()
	end := start + args[1].Uint64()
	if end < start {
		return // the kernel refuses it
	}
	c.madvised = span{start, end}
	space.markRange(c.madvised)
}

// finishMadvise marks the range once more, now that the kernel is done: a
// collection may have taken the first mark before the pages changed. (If the
// task stops in between, the witness still tells.)
func (c *switchContext) finishMadvise(space *addressSpace) {
	if c.madvised == (span{}) {
		return
	}
	if c.tracker.marksMadvise() {
		space.markRange(c.madvised)
	}
	c.madvised = span{}
}
