package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	gcontrol "gvisor.dev/gvisor/pkg/sentry/control"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// Checkpoint serves a stop on the control socket. Its exported methods are the
// remote calls.
type Checkpoint struct {
	s *boot.Sandbox

	mu   sync.Mutex
	stop *stop // the stop under way, nil if none; guarded by mu
}

// Services returns what boot.Hooks.Services wants.
func Services(s *boot.Sandbox) []any { return []any{&Checkpoint{s: s}} }

// stop is a stop under way: tasks are paused and gates shut.
type stop struct {
	from     boot.Phase // the phase to go back to
	lifeline *os.File
	collect  func()        // lets garbage be collected again
	gone     chan struct{} // closed when lifeline has ended

	// Guarded by Checkpoint.mu.
	armed     bool // the end of lifeline resumes
	saving    bool // Save is not done: only it may resume
	abandoned bool // nobody wants the save any more: it resumes when it is done
	announce  bool // the addresses are announced before that

	ended chan struct{} // closed when the tasks go on
}

// Survey describes the sandbox without stopping it.
func (c *Checkpoint) Survey(_ *control.None, out *Survey) error {
	out.CPU = readCPU()
	out.Sessions = c.s.Sessions()
	out.Terminal = c.s.Terminal()
	out.Containers = c.s.Containers()
	out.MemoryBytes = c.s.MemoryFile().TotalSize()
	out.Findings = append(findArriving(), findUnsavable(c.s.Kernel())...)
	out.Findings = append(out.Findings, findContainers(c.s)...)
	stack, _ := c.s.Network()
	var losses []network.Loss
	out.Network, losses = network.Snapshot(stack, c.s.BootedNetwork())
	out.Connections = network.Connections(stack)
	if _, err := network.ExportFilters(stack); err != nil {
		losses = append(losses, network.Loss{Code: network.CodeGuestFilters, Detail: err.Error(), Blocks: true})
	}
	for _, l := range losses {
		if l.Blocks {
			out.Findings = append(out.Findings, Finding{Code: l.Code, Detail: l.Detail, Remedy: "undo it inside the sandbox"})
		} else {
			out.Losses = append(out.Losses, l)
		}
	}
	var list []*gcontrol.Process
	if err := gcontrol.Processes(c.s.Kernel(), "", &list); err != nil {
		return err
	}
	for _, p := range list {
		out.Processes = append(out.Processes, Process{
			PID: int32(p.PID), PPID: int32(p.PPID), Threads: len(p.Threads), Command: p.Cmd,
		})
	}
	return nil
}

// Prepare does, while the tasks still run, what would make the stop longer,
// and hands out the memory file.
func (c *Checkpoint) Prepare(_ *control.None, out *Prepared) error {
	if phase := c.s.Phase(); phase != boot.PhaseRunning && phase != boot.PhasePaused {
		return fmt.Errorf("cannot checkpoint: container is %s, want running or paused", phase)
	}
	// The stop would otherwise look at each page that may have been committed.
	if err := c.s.MemoryFile().UpdateUsage(nil); err != nil {
		return fmt.Errorf("account memory: %w", err)
	}
	out.MemoryBytes = c.s.MemoryFile().TotalSize()
	out.Files = []*os.File{c.s.Memory()}
	return nil
}

// Save stops the tasks and streams the kernel out. It returns with the tasks
// stopped, or, on an error, running again.
func (c *Checkpoint) Save(in *SaveArgs, out *SaveResult) error {
	if len(in.Files) != SaveFiles && len(in.Files) != SaveFiles+1 {
		return fmt.Errorf("save was given %d files, want %d, or %d with events", len(in.Files), SaveFiles, SaveFiles+1)
	}
	// The call closes its own files when it returns.
	files, err := duplicate(in.Files)
	if err != nil {
		return err
	}
	state, metadata, ranges, lifeline := files[0], files[1], files[2], files[3]
	var events *stopEvents
	if len(files) > SaveFiles {
		events = &stopEvents{file: files[SaveFiles], tracker: c.s.Tracker()}
		defer events.close()
	}
	closeStreams := func() {
		state.Close()
		metadata.Close()
		ranges.Close()
	}
	start := time.Now()
	st, err := c.begin(lifeline)
	if err != nil {
		closeStreams()
		return err
	}
	paused := time.Now()
	references := newReferenceWriter(ranges)
	if events != nil {
		events.stopped(paused.Sub(start))
		references.first = events.collect
	}
	if events == nil || in.Connections {
		stack, _ := c.s.Network()
		out.Connections = network.Connections(stack)
	}
	k := c.s.Kernel()
	// SaveTo takes ownership of all three streams. With resume true the
	// kernel stays able to go on.
	err = k.SaveTo(k.SupervisorContext(), newBufferedFile(state), newBufferedFile(metadata), references, false, true)
	if err := c.saved(st, err); err != nil {
		return err
	}
	out.PauseNanos = paused.Sub(start).Nanoseconds()
	out.SaveNanos = time.Since(paused).Nanoseconds()
	out.StoppedUnixNano = start.UnixNano()
	// What the kernel refers to now, which is what it was saved with.
	out.Sessions, out.Terminal, out.Containers = c.s.Sessions(), c.s.Terminal(), c.s.Containers()
	return nil
}

// begin pauses the tasks, shuts the gates and watches the lifeline, which it
// owns from then on.
func (c *Checkpoint) begin(lifeline *os.File) (*stop, error) {
	st, err := c.claim(lifeline)
	if err != nil {
		lifeline.Close()
		return nil, err
	}
	go c.watch(st)
	if err := c.pause(st); err != nil {
		return nil, err
	}
	c.unthrottle() // nothing runs that it could take time from
	c.s.Kernel().ReceiveTaskStates()
	if err := network.Quiesce(c.s.Network()); err != nil {
		return nil, c.saved(st, err)
	}
	if f := findContainers(c.s); f != nil { // one may have ended since claim
		return nil, c.saved(st, fmt.Errorf("%s: %s", f[0].Detail, f[0].Remedy))
	}
	return st, nil
}

// claim makes a stop the one under way.
func (c *Checkpoint) claim(lifeline *os.File) (*stop, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		return nil, errors.New("a checkpoint is already under way")
	}
	if f := findArriving(); f != nil {
		// The save would wait for the other host with the tasks stopped.
		return nil, fmt.Errorf("cannot checkpoint: %s: %s", f[0].Detail, f[0].Remedy)
	}
	from := boot.PhaseRunning
	if !c.s.Enter(boot.PhaseRunning, boot.PhaseSaving) {
		from = boot.PhasePaused
		if !c.s.Enter(boot.PhasePaused, boot.PhaseSaving) {
			return nil, fmt.Errorf("cannot checkpoint: container is %s, want running or paused, and no exec that is just starting", c.s.Phase())
		}
	}
	// Nobody can make or start a container from here on.
	if f := findContainers(c.s); f != nil {
		c.s.Enter(boot.PhaseSaving, from)
		return nil, fmt.Errorf("cannot checkpoint: %s: %s", f[0].Detail, f[0].Remedy)
	}
	// A collection in the stop would lengthen it.
	c.stop = &stop{
		from: from, lifeline: lifeline, collect: boot.HoldCollections(),
		armed: true, saving: true, gone: make(chan struct{}), ended: make(chan struct{}),
	}
	return c.stop, nil
}

// pause stops the tasks. One that never stops would hold up all others for
// ever; so when the pager has waited long enough and gone away, they go on.
func (c *Checkpoint) pause(st *stop) error {
	k := c.s.Kernel()
	stopped := make(chan struct{})
	go func() {
		k.Pause()
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-st.gone:
	}
	for !k.IsPaused() { // Unpause must not overtake the Pause that it undoes
		time.Sleep(time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = nil
	c.s.Enter(boot.PhaseSaving, st.from)
	k.Unpause()
	st.collect()
	st.lifeline.Close()
	close(st.ended)
	return errors.New("tasks did not stop: one may be stuck in the kernel")
}

// saved ends the part of a stop in which the kernel is being encoded, and with
// it nobody else may resume.
func (c *Checkpoint) saved(st *stop, saveErr error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.saving = false
	switch {
	case saveErr != nil:
		c.resumeLocked(st)
		return fmt.Errorf("save kernel: %w", saveErr)
	case st.abandoned:
		c.resumeLocked(st)
		return errors.New("the pager went away")
	}
	return nil
}

// watch resumes the sandbox when the pager has gone away in the middle of st.
func (c *Checkpoint) watch(st *stop) {
	io.ReadFull(st.lifeline, make([]byte, 1)) // nothing is ever written
	close(st.gone)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stop != st || !st.armed:
	case st.saving:
		st.abandoned = true
	default:
		c.resumeLocked(st)
	}
}

// Resume lets the tasks go on after a Save.
func (c *Checkpoint) Resume(*control.None, *control.None) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stop == nil:
		return errors.New("no checkpoint is under way")
	case c.stop.saving:
		return errors.New("the kernel is just being saved")
	}
	c.resumeLocked(c.stop)
	return nil
}

// resumeLocked ends st, which must be the stop under way, with its tasks
// paused.
//
// Preconditions: c.mu is held.
func (c *Checkpoint) resumeLocked(st *stop) {
	c.stop = nil
	if _, gates := c.s.Network(); st.announce {
		if err := gates.Announce(); err != nil {
			log.Warningf("announce addresses: %v", err)
		}
	}
	k := c.s.Kernel()
	k.BeforeResume(k.SupervisorContext())
	c.s.Enter(boot.PhaseSaving, st.from)
	k.Unpause()
	network.Resume(c.s.Network())
	st.collect()
	st.lifeline.Close()
	close(st.ended)
}

// Resets says which peers are to be told of the end of their connections when the kernel is started.
func (c *Checkpoint) Resets(in *ResetArgs, _ *control.None) error { return c.s.SetResets(in.Fates) }

// Disarm keeps the tasks stopped even when the pager goes away: the saved
// state is durable, and this sandbox is about to be ended.
func (c *Checkpoint) Disarm(*control.None, *control.None) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil || c.stop.saving {
		return errors.New("no checkpoint is under way")
	}
	c.stop.armed = false
	return nil
}

// duplicate returns copies of files that outlive the call they came with.
func duplicate(files []*os.File) ([]*os.File, error) {
	var copies []*os.File
	for _, f := range files {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			for _, c := range copies {
				c.Close()
			}
			return nil, fmt.Errorf("keep stream: %w", err)
		}
		copies = append(copies, os.NewFile(uintptr(fd), f.Name()))
	}
	return copies, nil
}
