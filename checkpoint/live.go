package checkpoint

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// Live is a running sandbox whose memory and kernel are about to go elsewhere:
// the pager's side of package inside for a migration. Its methods are called one
// at a time, but for Frames.
type Live struct {
	sb     *sandbox.Sandbox
	client *control.Client
	frames *control.Client // of Frames alone
	memory *os.File
	// tracking and stopping are our ends of lifelines: closing one ends the
	// tracking and throttling, or the stop unless it was disarmed.
	tracking, stopping *os.File
}

// OpenLive connects to a sandbox. The caller closes the Live; the sandbox goes
// on then, unless it was disarmed.
func OpenLive(ctx context.Context, sb *sandbox.Sandbox) (_ *Live, err error) {
	if err := sb.NeedWhole("move"); err != nil {
		return nil, err
	}
	l := &Live{sb: sb}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.client, err = sb.Dial(ctx); err != nil {
		return nil, err
	}
	l.frames, err = sb.Dial(ctx)
	return l, err
}

// Close lets go of the sandbox. It may be called twice.
func (l *Live) Close() {
	for _, f := range []*os.File{l.tracking, l.stopping, l.memory} {
		if f != nil {
			f.Close()
		}
	}
	for _, c := range []*control.Client{l.client, l.frames} {
		if c != nil {
			c.Close()
		}
	}
	*l = Live{sb: l.sb}
}

// call makes a call that does not stop the sandbox.
func (l *Live) call(ctx context.Context, method string, arg, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.client.Call(ctx, method, arg, result)
}

// Survey asks what a save would find.
func (l *Live) Survey(ctx context.Context) (*inside.Survey, error) { return survey(ctx, l.client) }

// Memory returns the memory file, owned by l, after accounting for what is in
// it, so that a stop has not to.
func (l *Live) Memory(ctx context.Context) (*os.File, error) {
	var p inside.Prepared
	if err := l.call(ctx, inside.MethodPrepare, &control.None{}, &p); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	if len(p.Files) != 1 {
		closeFiles(p.Files)
		return nil, fmt.Errorf("%w: prepare gave %d files, want the memory file", ErrSandbox, len(p.Files))
	}
	if l.memory != nil {
		p.Files[0].Close()
		return l.memory, nil
	}
	if _, err := checkMemory(p.Files[0]); err != nil {
		p.Files[0].Close()
		return nil, err
	}
	l.memory = p.Files[0]
	return l.memory, nil
}

// Arm begins to track dirty pages. It returns why that is not possible here, or
// "".
func (l *Live) Arm(ctx context.Context) (unsupported string, err error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	var result inside.ArmResult
	if err := l.call(ctx, inside.MethodArm, &inside.ArmArgs{FilePayload: urpc.FilePayload{Files: []*os.File{theirs}}}, &result); err != nil {
		ours.Close()
		return "", err
	}
	l.tracking = ours
	return result.Unsupported, nil
}

// Throttle takes a share of its time from the sandbox, until it stops or l is
// closed. It is for after Arm. It returns why that is not possible here, or "".
func (l *Live) Throttle(ctx context.Context, percent int) (unsupported string, err error) {
	var result inside.ThrottleResult
	err = l.call(ctx, inside.MethodThrottle, &inside.ThrottleArgs{Percent: percent}, &result)
	return result.Unsupported, err
}

// Collect returns what became dirty since Arm or the last Collect.
func (l *Live) Collect(ctx context.Context) (*pages.Set, error) {
	return l.pageSet(ctx, inside.MethodCollect)
}

func (l *Live) pageSet(ctx context.Context, method string) (*pages.Set, error) {
	return pageSet(ctx, l.client, method)
}

// Populate commits the pages that processes have mapped and not touched yet. A
// stop would otherwise look at each of them.
func (l *Live) Populate(ctx context.Context) error { return populateMapped(ctx, l.client, l.memory) }

// Sinks take what a stop gives. They may be called at the same time as each other, but
// Memory only after Stopped.
type Sinks struct {
	// Stopped is called when the tasks are paused and the gates shut.
	Stopped func()
	// Memory is called as soon as it is known which pages the kernel has: while that is
	// still being encoded, which takes longer. Its error ends the stop.
	Memory func(context.Context, *SavedMemory) error
	// State and Metadata take the streams of the kernel, bounded by
	// image.MaxStateBytes.
	State, Metadata io.Writer
	// Connections asks for the saved kernel's.
	Connections bool
}

// SavedMemory is the memory of a saved kernel. It does not change any more.
type SavedMemory struct {
	// Committed are the saved kernel's pages, those of Inline included.
	Committed *pages.Set
	// Inline are pages whose content in memory is not the saved one.
	Inline []InlinePages
	// Dirty is what became dirty since the last Collect; nil where that is not
	// known.
	Dirty *pages.Set
}

// Stopped is what else a stop gave. The tasks stay paused.
type Stopped struct {
	// Sessions are the host streams that the saved kernel refers to: whoever loads
	// it must have been given them.
	Sessions []boot.Session
	// Containers are those that the saved kernel has besides the first.
	Containers []boot.ContainerState
	// Connections are those of the saved kernel, with the numbers that they stopped at, if Sinks asked for them.
	Connections []network.Connection
	// Terminal is the container's terminal, nil if it has none.
	Terminal *boot.TerminalState
}

// InlinePages are pages with their content.
type InlinePages struct {
	First uint64
	Data  []byte
}

// Stop pauses the sandbox and saves its kernel. After an error it goes on.
func (l *Live) Stop(ctx context.Context, sinks Sinks) (*Stopped, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultStopTimeout)
	defer cancel()
	var err error
	var lifeline *os.File
	if lifeline, l.stopping, err = os.Pipe(); err != nil {
		return nil, err
	}
	ours, theirs, err := stopPipes(lifeline)
	if err != nil {
		lifeline.Close()
		return nil, err
	}
	out := &Stopped{}
	var refusal error
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		args := &inside.SaveArgs{FilePayload: urpc.FilePayload{Files: theirs}, Connections: sinks.Connections}
		var result inside.SaveResult
		err := l.client.Call(ctx, inside.MethodSave, args, &result)
		refusal = refusalOf(err)
		out.Sessions, out.Terminal, out.Connections, out.Containers = result.Sessions, result.Terminal, result.Connections, result.Containers
		for _, f := range theirs {
			f.Close()
		}
		return err
	})
	// A sandbox that never closes its ends must not keep us.
	release := context.AfterFunc(ctx, func() { closeFiles(ours) })
	defer release()
	carry := func(to io.Writer, from *os.File) {
		group.Go(func() error {
			defer from.Close()
			buffer := make([]byte, 256<<10)
			_, err := io.CopyBuffer(to, struct{ io.Reader }{io.LimitReader(from, image.MaxStateBytes)}, buffer)
			return err
		})
	}
	carry(sinks.State, ours[0])
	carry(sinks.Metadata, ours[1])
	group.Go(func() error {
		memory, err := readSavedMemory(ours[2], ours[3], sinks.Stopped)
		if err != nil {
			return err
		}
		return sinks.Memory(ctx, memory)
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("stop: %w", cause(ctx, cmp.Or(refusal, err)))
	}
	return out, nil
}

// refusalOf returns err if it is what the sandbox itself said. That is why its streams were cut short, whichever is
// noticed first.
func refusalOf(err error) error {
	if errors.As(err, new(*control.RemoteError)) {
		return err
	}
	return nil
}

// readSavedMemory reads ranges and events of a stop up to their last records, and closes them.
func readSavedMemory(ranges, events *os.File, stopped func()) (*SavedMemory, error) {
	var list *pageList
	out := &SavedMemory{Committed: &pages.Set{}}
	var group errgroup.Group
	group.Go(func() (err error) {
		defer ranges.Close()
		list, err = readRanges(ranges, pages.MaxPages*pages.PageSize)
		return err
	})
	group.Go(func() (err error) {
		defer events.Close()
		out.Dirty, err = readEvents(events, stopped)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, run := range list.all() {
		out.Committed.AddRange(run.First, run.First+run.Count)
	}
	for _, p := range list.inline {
		out.Inline = append(out.Inline, InlinePages{First: p.run.First, Data: p.data})
	}
	return out, nil
}

// stopPipes returns our ends of the pipes for state, metadata, ranges and
// events, and what the sandbox is to be given.
func stopPipes(lifeline *os.File) (ours, theirs []*os.File, err error) {
	for range inside.SaveFiles {
		r, w, err := os.Pipe()
		if err != nil {
			for _, f := range append(ours, theirs...) {
				f.Close()
			}
			return nil, nil, err
		}
		widen(w)
		ours, theirs = append(ours, r), append(theirs, w)
	}
	events := theirs[3]
	return ours, append(append(theirs[:3:3], lifeline), events), nil
}

// streamBufferBytes is how much of a kernel's stream may wait in a pipe: usually all of it.
const streamBufferBytes = 1 << 20

// widen lets whoever writes a kernel's stream not wait for whoever reads it. Where the host does not allow that, it
// waits.
func widen(pipe *os.File) { unix.FcntlInt(pipe.Fd(), unix.F_SETPIPE_SZ, streamBufferBytes) }

// readEvents reads the events of a stop, see inside. It returns nil where it is
// not known what is dirty.
func readEvents(r io.Reader, stopped func()) (*pages.Set, error) {
	var record [inside.RangeBytes]byte
	if _, err := io.ReadFull(r, record[:]); err != nil {
		return nil, fmt.Errorf("%w: it did not stop: %w", ErrSandbox, err)
	}
	stopped()
	dirty := &pages.Set{}
	for {
		if _, err := io.ReadFull(r, record[:]); err != nil {
			return nil, fmt.Errorf("%w: read dirty pages, the last of which did not come: %w", ErrSandbox, err)
		}
		if record == ([inside.RangeBytes]byte{}) {
			return dirty, nil
		}
		if binary.LittleEndian.Uint64(record[:]) == inside.UnknownDirty {
			return nil, nil
		}
		run, err := parseRange(record[:], pages.MaxPages*pages.PageSize)
		if err != nil {
			return nil, err
		}
		dirty.AddRange(run.First, run.First+run.Count)
	}
}

// Frames returns the frames that reached the stopped sandbox's gates since the
// last call.
func (l *Live) Frames(ctx context.Context) ([]network.Frame, error) {
	var out inside.FrameList
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := l.frames.Call(ctx, inside.MethodFrames, &control.None{}, &out)
	return out.Frames, err
}

// Disarm is Disarm for the sandbox that Stop stopped, over the connection that is open.
func (l *Live) Disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return l.client.Call(ctx, inside.MethodDisarm, &control.None{}, &control.None{})
}

// releaseTimeout bounds Release and Disarm of a sandbox: their callers try again.
const releaseTimeout = 10 * time.Second

// Disarm keeps a stopped sandbox stopped, whatever becomes of us.
func Disarm(ctx context.Context, sb *sandbox.Sandbox) error {
	return callOnce(ctx, sb, inside.MethodDisarm, &control.None{})
}

// Release lets a stopped sandbox go on. It is no error if it was not stopped.
func Release(ctx context.Context, sb *sandbox.Sandbox, announce bool) error {
	return callOnce(ctx, sb, inside.MethodRelease, &inside.ReleaseArgs{Announce: announce})
}

// Inject gives a sandbox's gates frames of the host that it comes from.
func Inject(ctx context.Context, sb *sandbox.Sandbox, frames []network.Frame) error {
	return callOnce(ctx, sb, inside.MethodInject, &inside.FrameList{Frames: frames})
}

// TellPeers has a sandbox that is not started yet tell the peers of some connections of the saved kernel, when it starts,
// that these have ended with the move: those of its plan that deserve it.
func (p *Plan) TellPeers(ctx context.Context, sb *sandbox.Sandbox, stopped []network.Connection) error {
	fates := resets(network.Survival(stopped, p.network))
	if len(fates) == 0 {
		return nil
	}
	return callOnce(ctx, sb, inside.MethodResets, &inside.ResetArgs{Fates: fates})
}

func callOnce(ctx context.Context, sb *sandbox.Sandbox, method string, arg any) error {
	return callFor(ctx, sb, method, arg, &control.None{})
}

// callFor makes one call on a connection of its own.
func callFor(ctx context.Context, sb *sandbox.Sandbox, method string, arg, result any) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	client, err := sb.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, method, arg, result)
}
