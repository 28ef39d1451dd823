package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// memoryFile is the one memory file of a sandbox, in images.
const memoryFile image.FileID = 0

// Names of the state streams in an image.
const (
	stateKernel   = "kernel"
	stateMetadata = "memory"
)

// callTimeout bounds the calls that do not stop the sandbox. The save itself
// is bounded by SaveOptions.StopTimeout.
const callTimeout = 30 * time.Second

// defaultStopTimeout is long, since the encoder's time grows with the number
// of processes and open files.
const defaultStopTimeout = 2 * time.Minute

// SaveOptions says how to save.
type SaveOptions struct {
	// Store and Name say where the image goes; an image of that name is
	// replaced.
	Store *image.Store
	Name  string
	// LeaveRunning lets the sandbox go on afterwards; otherwise it is ended.
	LeaveRunning bool
	// Compression is that of pages and state; the zero value is zstd.
	Compression image.Compression
	// StopTimeout bounds the time in which the kernel must have stopped and
	// written its state; 0 means two minutes.
	StopTimeout time.Duration
	// OnPhase, if not nil, is told each phase when it has ended.
	OnPhase func(Phase)
}

// SaveReport says what a save did.
type SaveReport struct {
	Phases Phases `json:"phases"`
	// StoppedNanos is how long the tasks were stopped, 0 if they never ran
	// again.
	StoppedNanos int64 `json:"stoppedNanos"`
	// Rounds is how often memory was gone through before the stop.
	Rounds int `json:"rounds"`
	// PagesCommitted is the number of pages that the kernel holds, StateBytes
	// and MetadataBytes what its streams have before compression.
	PagesCommitted uint64 `json:"pagesCommitted"`
	StateBytes     int64  `json:"stateBytes"`
	MetadataBytes  int64  `json:"metadataBytes"`
	// Warnings are what the sandbox has and will not have again.
	Warnings []string `json:"warnings,omitempty"`
	// Digest names the image for good.
	Digest string `json:"digest"`
}

// Survey asks a sandbox what a save would find, without stopping it.
func Survey(ctx context.Context, sb *sandbox.Sandbox) (*inside.Survey, error) {
	if err := sb.NeedWhole("checkpoint"); err != nil {
		return nil, err
	}
	client, err := sb.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return survey(ctx, client)
}

func survey(ctx context.Context, client *control.Client) (*inside.Survey, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var s inside.Survey
	if err := client.Call(ctx, inside.MethodSurvey, &control.None{}, &s); err != nil {
		return nil, fmt.Errorf("survey sandbox: %w", err)
	}
	return &s, nil
}

// Save writes a sandbox into an image. On an error the sandbox goes on as
// before and there is no image; only an error in ending the sandbox leaves the
// image, which is complete then.
func Save(ctx context.Context, sb *sandbox.Sandbox, opts SaveOptions) (*SaveReport, error) {
	if err := sb.NeedWhole("checkpoint"); err != nil {
		return nil, err
	}
	client, err := sb.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	s := &saving{sb: sb, opts: opts, client: client, clock: newStopwatch(opts.OnPhase)}
	if s.survey, err = survey(ctx, client); err != nil {
		return nil, err
	}
	if len(s.survey.Findings) > 0 {
		return nil, &UnsavableError{Findings: s.survey.Findings}
	}
	s.report.Warnings = s.survey.Warnings()
	s.clock.lap("survey")
	s.writer, err = opts.Store.NewWriter(ctx, image.WriterOptions{Compression: opts.Compression})
	if err != nil {
		return nil, err
	}
	defer s.writer.Abort() // does nothing after a commit
	if err := s.run(ctx); err != nil {
		return nil, fmt.Errorf("checkpoint sandbox %q: %w", sb.ID, err)
	}
	s.report.Phases = s.clock.phases
	return &s.report, nil
}

// saving is one save under way.
type saving struct {
	sb     *sandbox.Sandbox
	opts   SaveOptions
	client *control.Client
	writer *image.Writer
	survey *inside.Survey
	clock  *stopwatch
	report SaveReport
	// memoryBytes is the size of the memory file up to its last saved page.
	memoryBytes     uint64
	stoppedUnixNano int64
	connections     []network.Connection // of the saved kernel
}

func (s *saving) run(ctx context.Context) error {
	memory, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	defer letGo(memory)
	s.clock.lap("prepare")

	var early *precopy
	if s.opts.LeaveRunning {
		early = newPrecopy(memory, s.writer)
		if s.report.Rounds, err = early.run(ctx); err != nil {
			return err
		}
		if err := s.settle(ctx, memory); err != nil {
			return err
		}
		s.clock.lap("rounds")
	}
	storing := newBackground()
	defer storing.cancel()
	lifeline, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	// Whatever happens from here on, closing our end makes the sandbox go on,
	// unless it was disarmed. That comes first: it does not wait for what is being
	// stored.
	defer hold.Close()
	err = s.stop(ctx, lifeline, func(pages *pageList) {
		storing.start(ctx, func(ctx context.Context) error { return s.storePages(ctx, memory, early, pages) })
	})
	if err != nil {
		return err
	}
	s.clock.lap("stop")
	if err := storing.wait(); err != nil {
		return err
	}
	s.clock.lap("pages")
	if s.opts.LeaveRunning {
		return s.resumeThenCommit(ctx)
	}
	return s.commitThenEnd(ctx)
}

// storePages stores what is not stored yet of the saved kernel's pages.
func (s *saving) storePages(ctx context.Context, memory *os.File, early *precopy, pages *pageList) error {
	var err error
	if early != nil {
		err = early.finish(ctx, pages.runs)
	} else {
		err = s.writer.AddFrom(ctx, memoryFile, memory, pages.runs)
	}
	if err != nil {
		return err
	}
	for _, p := range pages.inline {
		if err := s.writer.AddPages(memoryFile, p.run.First, p.data); err != nil {
			return err
		}
	}
	return s.writer.KeepOnly(memoryFile, pages.all())
}

// prepare gets the memory file.
func (s *saving) prepare(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var p inside.Prepared
	if err := s.client.Call(ctx, inside.MethodPrepare, &control.None{}, &p); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	if len(p.Files) != 1 {
		return nil, fmt.Errorf("%w: prepare gave %d files, want the memory file", ErrSandbox, len(p.Files))
	}
	if _, err := checkMemory(p.Files[0]); err != nil {
		p.Files[0].Close()
		return nil, err
	}
	return p.Files[0], nil
}

// settle does, while the tasks still run, what would make the stop longer.
func (s *saving) settle(ctx context.Context, memory *os.File) error {
	if err := populateMapped(ctx, s.client, memory); err != nil {
		return err
	}
	// The kernel is to know of what is committed now.
	again, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	return again.Close()
}

// resumeThenCommit lets the tasks go on as soon as no page of theirs is needed
// any more.
func (s *saving) resumeThenCommit(ctx context.Context) error {
	if err := s.call(ctx, inside.MethodResume); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	s.report.StoppedNanos = time.Now().UnixNano() - s.stoppedUnixNano
	s.clock.lap("resume")
	return s.commit()
}

// commitThenEnd ends the sandbox once its image is durable.
func (s *saving) commitThenEnd(ctx context.Context) error {
	if err := s.commit(); err != nil {
		return err
	}
	// The image lives now: two of one sandbox must not, whoever gives up
	// waiting, and whatever the kernel answers.
	ctx = context.WithoutCancel(ctx)
	disarmErr := s.call(ctx, inside.MethodDisarm)
	if err := s.sb.End(ctx); err != nil {
		return fmt.Errorf("the image is complete, but the sandbox may run on: %w", errors.Join(disarmErr, err))
	}
	s.clock.lap("end")
	return nil
}

func (s *saving) commit() error {
	config, err := s.config()
	if err != nil {
		return err
	}
	descriptor, err := s.writer.Commit(s.opts.Name, config)
	if err != nil {
		return err
	}
	s.report.Digest = descriptor.Digest.String()
	s.clock.lap("commit")
	return nil
}

func (s *saving) call(ctx context.Context, method string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.client.Call(ctx, method, &control.None{}, &control.None{})
}
