package migrate

import (
	"context"
	"sync"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// arrival is a standby, and the sandbox that it becomes, for package handover.
type arrival struct {
	standby *checkpoint.Standby // nil where an earlier agent started the sandbox
	// terminals go on by themselves once the sandbox is loaded.
	terminals terminals
	plan      *checkpoint.Plan // of the standby
	// fetch brings what is missing after post-copy; nil where nothing is. Set before
	// Start, guarded by mu from then on.
	fetch *fetch
	// standIns are those of the containers besides the first.
	standIns []StandIn

	mu sync.Mutex
	// sb is the sandbox once it is loaded. Guarded by mu, as is everything below.
	sb      *sandbox.Sandbox
	started bool // Start was called
	// trouble is when a fetch failed after which none has brought anything (see fetch.brought); zero: it has.
	trouble time.Time
	gone    bool // Discard was called
	frames  []network.Frame
	bytes   int // of frames
}

// Bounds of the frames that wait for a sandbox to be loaded.
const (
	maxHeldFrames     = 16 << 10
	maxHeldFrameBytes = 32 << 20
)

// packet takes a frame that the source's gate held. Those that come before the
// sandbox is loaded wait; what is too much is lost, as on any network.
func (a *arrival) packet(nic uint16, p wire.Packet) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.frames) < maxHeldFrames && a.bytes+len(p.Data) <= maxHeldFrameBytes {
		a.frames = append(a.frames, frameOf(nic, p))
		a.bytes += len(p.Data)
	}
	a.inject()
}

// inject gives the frames to the sandbox's gates, which hold them until it is started. The caller holds mu.
func (a *arrival) inject() {
	if a.sb == nil || a.gone || len(a.frames) == 0 {
		return
	}
	// What is lost here is sent again by whoever sent it.
	checkpoint.Inject(context.Background(), a.sb, a.frames)
	a.frames, a.bytes = nil, 0
}

// loaded says that the sandbox only has to be started.
func (a *arrival) loaded(sb *sandbox.Sandbox) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sb = sb
}

// passFrames gives what came before the sandbox was loaded to its gates.
func (a *arrival) passFrames() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inject()
}

// Copy implements handover.Arrival.
func (a *arrival) Copy() journal.Copy {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.gone || a.sb == nil || !a.sb.Sandbox.Alive():
		return journal.Absent
	case !a.started:
		if !a.sb.GofersAlive() && a.standby.Discard() == nil {
			// It would run without its files, when the source still has a copy that has them.
			a.discarded()
			return journal.Absent
		}
		return journal.Standby
	}
	return journal.Running
}

// endedByItself says whether the sandbox ran and its container has ended. A nil arrival has none.
func (a *arrival) endedByItself() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.started && a.sb != nil && a.sb.Ended()
}

// Start implements handover.Arrival.
func (a *arrival) Start(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.started = true
	failpoint.Here(failpoint.TargetOwner)
	a.inject()
	if err := a.standby.Start(ctx); err != nil {
		// It may run all the same, or never. Ending it makes that certain: the
		// record says that it may have run.
		a.sb.End(ctx)
		return err
	}
	if a.fetch != nil {
		a.fetch.begin()
	}
	go assignAll(a.standIns)
	failpoint.Here(failpoint.TargetStarted)
	// From now on the sandbox needs nothing of us.
	a.standby.Release()
	go a.sb.Wait(context.WithoutCancel(ctx)) // collects the process
	return nil
}

// fetching returns the fetch of what is missing, if it runs here and that is not over
// for this host; else nil.
func (a *arrival) fetching() *fetch {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.started {
		return nil
	}
	return a.fetch
}

// triesAgain says whether another fetch is to begin, where one has failed. The reason may have passed (see mayPass); one that
// lasts for stallPatience is left for a source to notice, and the one that comes back after it has another try.
func (a *arrival) triesAgain(failed *fetch, now time.Time) bool {
	if !failed.isOver() || !mayPass(failed.err) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trouble.IsZero() || failed.brought() {
		a.trouble = now
	}
	if now.Sub(a.trouble) < stallPatience {
		return true
	}
	a.trouble = time.Time{}
	return false
}

func (a *arrival) setTrouble(since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = since
}

// fetchBy makes a fetch the one of a sandbox that runs.
func (a *arrival) fetchBy(f *fetch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fetch = f
	f.begin()
}

func (a *arrival) sandbox() *sandbox.Sandbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sb
}

// wasStarted says whether Start was called: whatever is left is the sandbox's then. A nil arrival was not.
func (a *arrival) wasStarted() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.started
}

// Discard implements handover.Arrival.
func (a *arrival) Discard() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone || a.started {
		return nil
	}
	a.terminals.close()
	if err := a.standby.Discard(); err != nil {
		return err
	}
	a.discarded()
	return nil
}

// discarded notes that there is no standby any more. The caller holds mu.
func (a *arrival) discarded() {
	a.gone = true
	closeStandIns(a.standIns)
	if a.fetch != nil {
		a.fetch.pager.Close()
	}
}

// survivor is a sandbox that an earlier agent started, for package handover.
type survivor struct{ sb *sandbox.Sandbox }

// Copy implements handover.Arrival. A process that was never started ended with
// its agent.
func (s survivor) Copy() journal.Copy {
	if s.sb == nil || !s.sb.Sandbox.Alive() || s.sb.Status(context.Background()) == statusCreated {
		return journal.Absent
	}
	return journal.Running
}

// Start implements handover.Arrival.
func (s survivor) Start(context.Context) error { return sandbox.ErrState }

// Discard implements handover.Arrival.
func (s survivor) Discard() error { return nil }

// statusCreated is the status of a sandbox that was not started.
const statusCreated = "created"

// release ends a fetch that is over. It may be called twice.
func (a *arrival) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fetch != nil {
		a.fetch.pager.Close()
		a.fetch = nil
	}
}

// endPatience is how long a sandbox process may take to end whose kernel has gone.
const endPatience = 5 * time.Second

// awaitEnd waits until the sandbox's process has ended, if it does.
func (a *arrival) awaitEnd() bool {
	for deadline := time.Now().Add(endPatience); a.Copy() == journal.Running; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
