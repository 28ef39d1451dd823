package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// AddPages adds data, whole pages, as pages first, first+1, … of a memory file, in place of what was added there before. data
// is the caller's again when it returns. Large data is worked on in parallel.
func (w *Writer) AddPages(file FileID, first uint64, data []byte) error {
	if len(data)%PageBytes != 0 {
		return failf(CodeConfig, "", "%d bytes are not whole pages", len(data))
	}
	run := Run{First: first, Count: uint64(len(data) / PageBytes)}
	return w.add(w.ctx, file, []Run{run}, func(at uint64, into []byte) error {
		copy(into, data[(at-first)*PageBytes:])
		return nil
	})
}

// AddFrom adds runs of pages that the workers read from src themselves: page n at offset n*PageBytes. Use it for a memfd: pages
// are copied once, into the worker's cache. Runs must not overlap. An end of src within a run is an error.
func (w *Writer) AddFrom(ctx context.Context, file FileID, src io.ReaderAt, runs []Run) error {
	return w.add(ctx, file, runs, func(at uint64, into []byte) error {
		n, err := src.ReadAt(into, int64(at*PageBytes))
		if n == len(into) {
			return nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read page %d of memory file %d: %w", at+uint64(n/PageBytes), file, err)
	})
}

// DropPages forgets pages that were added and are not committed any more.
func (w *Writer) DropPages(file FileID, run Run) error {
	if err := errors.Join(w.usable(), checkRun(run)); err != nil {
		return err
	}
	w.table(file).drop(run)
	return nil
}

// KeepOnly forgets all pages of a memory file outside of runs. It is an error, and the end of the image, if runs has a
// page that was never added: a restore would find zeros there.
func (w *Writer) KeepOnly(file FileID, runs []Run) error {
	if err := w.usable(); err != nil {
		return err
	}
	for _, run := range runs {
		if err := checkRun(run); err != nil {
			return w.fail(err)
		}
	}
	if page, complete := w.table(file).keep(normalise(runs)); !complete {
		return w.fail(failf(CodeIncomplete, "", "page %d of memory file %d is committed and was not added", page, file))
	}
	return nil
}

// add hands runs to the lanes in batches of about a stage.
func (w *Writer) add(ctx context.Context, file FileID, runs []Run, fill func(page uint64, into []byte) error) error {
	if err := w.usable(); err != nil {
		return err
	}
	for _, run := range runs {
		if err := checkRun(run); err != nil {
			return err
		}
	}
	batches := split(runs, stagePages)
	work := func(l *lane, batch []Run) error {
		for _, run := range batch {
			err := l.add(file, run, func(at uint64, into []byte) error { return fill(run.First+at, into) })
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := w.inLanes(ctx, batches, work); err != nil {
		return w.fail(err)
	}
	return nil
}

// inLanes does each batch in a lane, as many at a time as there are lanes.
func (w *Writer) inLanes(ctx context.Context, batches [][]Run, work func(*lane, []Run) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var group sync.WaitGroup
	for range min(len(batches), cap(w.lanes)) {
		group.Go(func() {
			if err := w.inLane(ctx, &next, batches, work); err != nil {
				next.Store(int64(len(batches)))
				once.Do(func() { first = err })
			}
		})
	}
	group.Wait()
	return first
}

func (w *Writer) inLane(ctx context.Context, next *atomic.Int64, batches [][]Run, work func(*lane, []Run) error) error {
	var l *lane
	select {
	case l = <-w.lanes:
		defer func() { w.lanes <- l }()
	case <-ctx.Done():
		return fmt.Errorf("write image: %w", context.Cause(ctx))
	case <-w.ctx.Done():
		return fmt.Errorf("write image: %w", context.Cause(w.ctx))
	}
	if l == nil {
		return failf(CodeClosed, "", "the image has been committed or aborted")
	}
	for {
		at := next.Add(1) - 1
		if at >= int64(len(batches)) {
			return nil
		}
		if err := errors.Join(context.Cause(ctx), w.usable()); err != nil {
			return err
		}
		if err := work(l, batches[at]); err != nil {
			return err
		}
	}
}

// split cuts runs into batches of the given number of pages; the last one has what is left.
func split(runs []Run, pages uint64) [][]Run {
	var batches [][]Run
	var batch []Run
	room := pages
	for _, run := range runs {
		for run.Count > 0 {
			n := min(run.Count, room)
			batch = append(batch, Run{First: run.First, Count: n})
			run = Run{First: run.First + n, Count: run.Count - n}
			if room -= n; room == 0 {
				batches = append(batches, batch)
				batch, room = nil, pages
			}
		}
	}
	if len(batch) > 0 {
		batches = append(batches, batch)
	}
	return batches
}
