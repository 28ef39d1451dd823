package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// RestoreOptions says how to restore.
type RestoreOptions struct {
	PlanOptions
	// Create is how the sandbox is created; Bundle and Restore are filled in.
	Create sandbox.CreateOptions
	// From names the image, for the sandbox's record.
	From string
	// FurtherCreate says the same of each container besides the first, by name.
	FurtherCreate map[string]FurtherOptions
	// OnPhase, if not nil, is told each phase when it has ended.
	OnPhase func(Phase)
	// Quiet keeps peers of connections that end from being told: another copy of
	// the sandbox may have them. It is implied for an image whose sandbox went on.
	Quiet bool
}

// RestoreReport says what a restore did.
type RestoreReport struct {
	// Phases end with "pages", the time after the start until the last page had
	// arrived.
	Phases   Phases    `json:"phases"`
	Findings []Finding `json:"findings,omitempty"` // accepted differences
	// Connections says what became of each connection and listener.
	Connections []network.Fate `json:"connections,omitempty"`
	Warnings    []string       `json:"warnings,omitempty"`
	// BytesPlaced is the memory that was brought back.
	BytesPlaced int64 `json:"bytesPlaced"`
}

// Restoring is a restored sandbox whose tasks run, or are about to, while
// pages are still on their way. Call Wait.
type Restoring struct {
	Sandbox *sandbox.Sandbox
	Report  RestoreReport

	clock     *stopwatch
	committed int64 // bytes that the saved kernel has
	server    *pageServer
	served    chan error
}

// Restore makes a sandbox out of an image and lets it run. It returns when the
// tasks run; their memory follows, for which this process must stay until Wait
// returns. A plan that refuses is a *RefusedError. On an error there is no
// sandbox.
func Restore(ctx context.Context, root sandbox.Root, opts RestoreOptions) (*Restoring, error) {
	clock := newStopwatch(opts.OnPhase)
	plan, err := MakePlan(opts.PlanOptions)
	if err == nil && plan.Refuses() {
		err = &RefusedError{Plan: plan}
	}
	if err != nil {
		closeFiles(opts.Create.Stdio)
		closeFiles(opts.Create.Preserved)
		for _, f := range opts.FurtherCreate {
			closeFiles(f.Stdio)
		}
		return nil, err
	}
	clock.lap("plan")
	r := &Restoring{clock: clock, served: make(chan error, 1)}
	r.committed = int64(opts.Image.Stats().PagesCommitted) * image.PageBytes
	r.Report.Findings, r.Report.Connections = plan.Findings, plan.Connections
	if err := r.load(ctx, root, opts, plan); err != nil {
		return nil, err
	}
	clock.lap("load")
	if err := r.Sandbox.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Sandbox.DeleteWhole(context.WithoutCancel(ctx)))
	}
	clock.lap("start")
	r.Report.Phases = clock.phases
	return r, nil
}

// load creates the sandbox around the saved kernel and feeds it.
func (r *Restoring) load(ctx context.Context, root sandbox.Root, opts RestoreOptions, plan *Plan) error {
	memory, err := sandbox.NewMemory()
	if err != nil {
		return err
	}
	feeds := make(chan error, 2)
	state, err := feed(opts.Image, stateKernel, feeds)
	if err != nil {
		return err
	}
	metadata, err := feed(opts.Image, stateMetadata, feeds)
	if err != nil {
		state.Close()
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		state.Close()
		metadata.Close()
		return err
	}
	r.server = &pageServer{source: opts.Image, memory: memory, memoryBytes: memoryBytes(opts.Image), socket: ours}
	go func() {
		defer memory.Close()
		r.served <- r.server.serve(runtime.NumCPU())
	}()
	create := opts.Create
	create.Bundle = opts.Bundle
	create.Restore = &sandbox.Restore{
		From: opts.From, Mounts: plan.list, Network: plan.network,
		Sessions: plan.saved.streams.Sessions, Terminal: plan.saved.streams.Terminal, Processes: len(plan.saved.processes),
		Files: []*os.File{state, metadata, theirs}, Memory: memory, Further: plan.furtherRestore(opts.FurtherCreate),
	}
	if !opts.Quiet && !opts.Image.Config().LeftRunning {
		create.Restore.Resets = resets(plan.Connections)
	}
	r.Sandbox, r.Report.Warnings, err = root.Create(ctx, create)
	if err == nil {
		return nil
	}
	ours.Close()
	// A damaged image is the cause, not the kernel's trouble with what it got.
	for range cap(feeds) {
		if feedErr := <-feeds; feedErr != nil {
			return feedErr
		}
	}
	if serveErr := <-r.served; serveErr != nil {
		return serveErr
	}
	return err
}

// resets returns the connections whose peers deserve to hear of their end.
func resets(fates []network.Fate) []network.Fate {
	return slices.DeleteFunc(slices.Clone(fates), func(f network.Fate) bool { return !f.Reset })
}

// Wait returns when all pages have arrived, and completes the report. Where
// that fails, or ctx ends first, the sandbox has ended: it lacks pages.
func (r *Restoring) Wait(ctx context.Context) (*RestoreReport, error) {
	err := r.await(ctx)
	r.clock.lap("pages")
	r.Report.Phases = r.clock.phases
	r.Report.BytesPlaced = r.server.bytesPlaced.Load()
	if err == nil && !r.Sandbox.Sandbox.Alive() && r.Report.BytesPlaced < r.committed {
		err = fmt.Errorf("%w: it was killed", ErrSandbox)
	}
	if err != nil {
		return &r.Report, fmt.Errorf("restore memory of sandbox %q: it has ended: %w", r.Sandbox.ID, err)
	}
	return &r.Report, nil
}

// await returns when no page is served any more. When ctx ends, that is at once,
// and its cause is the error.
func (r *Restoring) await(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { r.server.socket.Close() })
	err := <-r.served
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// feed streams one of an image's state streams into a pipe and returns the end
// to read from. What went wrong, or nil, goes to done once.
func feed(img *image.Image, kind string, done chan<- error) (*os.File, error) {
	stream, err := img.OpenState(kind)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		stream.Close()
		return nil, err
	}
	go func() {
		defer w.Close()
		defer stream.Close()
		_, err := io.Copy(w, stream)
		if errors.Is(err, unix.EPIPE) {
			err = nil // the reader had enough, or is gone: it says why
		}
		done <- err
	}()
	return r, nil
}

func memoryBytes(img *image.Image) uint64 {
	for _, file := range img.Config().Memory {
		if file.ID == memoryFile {
			return file.SizeBytes
		}
	}
	return 0
}

// socketPair returns two connected stream sockets. Ours can be closed under a
// reader.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("create page socket: %w", err)
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "pages"), os.NewFile(uintptr(fds[1]), "pages"), nil
}
