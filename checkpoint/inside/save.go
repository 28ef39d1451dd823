package inside

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
	from      boot.Phase // the phase to go back to
	lifeline  *os.File
	gcPercent int
	armed     bool // the end of lifeline resumes
}

// Survey describes the sandbox without stopping it.
func (c *Checkpoint) Survey(_ *control.None, out *Survey) error {
	out.CPU = readCPU()
	out.Sessions = c.s.Sessions()
	out.Terminal = c.s.Terminal()
	out.MemoryBytes = c.s.MemoryFile().TotalSize()
	out.Findings = findUnsavable(c.s.Kernel())
	stack, _ := c.s.Network()
	var losses []network.Loss
	out.Network, losses = network.Snapshot(stack, c.s.BootedNetwork())
	for _, l := range losses {
		if l.Blocks {
			out.Findings = append(out.Findings, Finding{Code: l.Code, Detail: l.Detail, Remedy: "undo it inside the sandbox"})
		} else {
			out.Losses = append(out.Losses, l)
		}
	}
	out.Connections = network.Connections(stack)
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
	if err := c.begin(lifeline); err != nil {
		closeStreams()
		lifeline.Close()
		return err
	}
	paused := time.Now()
	references := newReferenceWriter(ranges)
	if events != nil {
		events.stopped(paused.Sub(start))
		references.first = events.collect
	}
	k := c.s.Kernel()
	// SaveTo takes ownership of all three streams. With resume true the
	// kernel stays able to go on.
	err = k.SaveTo(k.SupervisorContext(), newBufferedFile(state), newBufferedFile(metadata), references, false, true)
	if err != nil {
		c.resume()
		return fmt.Errorf("save kernel: %w", err)
	}
	out.PauseNanos = paused.Sub(start).Nanoseconds()
	out.SaveNanos = time.Since(paused).Nanoseconds()
	out.StoppedUnixNano = start.UnixNano()
	return nil
}

// begin pauses the tasks, shuts the gates and watches the lifeline.
func (c *Checkpoint) begin(lifeline *os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		return errors.New("a checkpoint is already under way")
	}
	from := boot.PhaseRunning
	if !c.s.Enter(boot.PhaseRunning, boot.PhaseSaving) {
		from = boot.PhasePaused
		if !c.s.Enter(boot.PhasePaused, boot.PhaseSaving) {
			return fmt.Errorf("cannot checkpoint: container is %s, want running or paused", c.s.Phase())
		}
	}
	// A collection in the stop would lengthen it.
	c.stop = &stop{from: from, lifeline: lifeline, gcPercent: debug.SetGCPercent(-1), armed: true}
	k := c.s.Kernel()
	k.Pause()
	k.ReceiveTaskStates()
	network.Quiesce(c.s.Network())
	go c.watch(c.stop)
	return nil
}

// watch resumes the sandbox when the pager has gone away in the middle of st.
func (c *Checkpoint) watch(st *stop) {
	io.ReadFull(st.lifeline, make([]byte, 1)) // nothing is ever written
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == st && st.armed {
		c.resumeLocked()
	}
}

// Resume lets the tasks go on after a Save.
func (c *Checkpoint) Resume(*control.None, *control.None) error { return c.resume() }

func (c *Checkpoint) resume() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resumeLocked()
}

// Preconditions: c.mu is held.
func (c *Checkpoint) resumeLocked() error {
	st := c.stop
	if st == nil {
		return errors.New("no checkpoint is under way")
	}
	c.stop = nil
	k := c.s.Kernel()
	k.BeforeResume(k.SupervisorContext())
	c.s.Enter(boot.PhaseSaving, st.from)
	k.Unpause()
	network.Resume(c.s.Network())
	debug.SetGCPercent(st.gcPercent)
	st.lifeline.Close()
	return nil
}

// Disarm keeps the tasks stopped even when the pager goes away: the saved
// state is durable, and this sandbox is about to be ended.
func (c *Checkpoint) Disarm(*control.None, *control.None) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil {
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
