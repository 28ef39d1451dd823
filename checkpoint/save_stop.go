package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// stop makes the sandbox stop and stream its kernel out. onPages is called as
// soon as it is known which pages belong to it, which do not change any more:
// most of the kernel is still to be encoded then.
func (s *saving) stop(ctx context.Context, lifeline *os.File, onPages func(*pageList)) error {
	timeout := s.opts.StopTimeout
	if timeout == 0 {
		timeout = defaultStopTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	streams, files, err := s.openStreams(lifeline)
	if err != nil {
		return err
	}
	var result inside.SaveResult
	var pages *pageList
	var refusal error
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := s.client.Call(ctx, inside.MethodSave, &inside.SaveArgs{FilePayload: urpc.FilePayload{Files: files}}, &result)
		refusal = refusalOf(err)
		for _, f := range files {
			f.Close() // the sandbox has its own, or will never have
		}
		return err
	})
	// A sandbox that never closes its ends must not keep us.
	release := context.AfterFunc(ctx, func() { closeFiles(streams) })
	defer release()
	group.Go(func() (err error) {
		s.report.StateBytes, err = s.store(stateKernel, streams[0])
		return err
	})
	group.Go(func() (err error) {
		s.report.MetadataBytes, err = s.store(stateMetadata, streams[1])
		return err
	})
	group.Go(func() (err error) {
		defer streams[2].Close()
		pages, err = readRanges(streams[2], maxMemoryBytes)
		if err == nil {
			onPages(pages)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop: %w", cause(ctx, cmp.Or(refusal, err)))
	}
	s.stoppedUnixNano = result.StoppedUnixNano
	// An exec may have come since the survey.
	s.survey.Sessions, s.survey.Terminal, s.survey.Containers = result.Sessions, result.Terminal, result.Containers
	s.connections = result.Connections
	for _, run := range pages.all() {
		s.report.PagesCommitted += run.Count
		s.memoryBytes = max(s.memoryBytes, (run.First+run.Count)*image.PageBytes)
	}
	return nil
}

// cause is why a stop failed: the first reason, and not that the others were
// cut off because of it.
func cause(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// openStreams returns our ends of three pipes, and what the sandbox is to be
// given, lifeline included.
func (s *saving) openStreams(lifeline *os.File) (ours, theirs []*os.File, err error) {
	for range inside.SaveFiles - 1 {
		r, w, err := os.Pipe()
		if err != nil {
			for _, f := range append(ours, theirs...) {
				f.Close()
			}
			return nil, nil, err
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	return ours, append(theirs, lifeline), nil
}

// store copies one of the kernel's streams into the image and returns its
// length.
func (s *saving) store(name string, from *os.File) (int64, error) {
	defer from.Close()
	to, err := s.writer.StateWriter(name)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, io.LimitReader(from, image.MaxStateBytes))
	return n, errors.Join(err, to.Close())
}
