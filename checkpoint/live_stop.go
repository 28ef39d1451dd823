package checkpoint

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

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
