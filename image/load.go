package image

import (
	"context"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// A PageSink takes pages of one memory file. It is called by several goroutines, with pages in no particular order, and must not
// keep data.
type PageSink func(first uint64, data []byte) error

// SinkTo returns a sink that writes page n at offset n*PageBytes, such as to a memfd.
func SinkTo(w io.WriterAt) PageSink {
	return func(first uint64, data []byte) error {
		_, err := w.WriteAt(data, int64(first*PageBytes))
		return err
	}
}

// LoadOptions says how Load works. The zero value is sensible.
type LoadOptions struct {
	// Workers is the number of goroutines that read, check and decompress; by default one for each CPU.
	Workers int
}

// Load gives each stored page of the memory files that have a sink to it, once. Packs are read in their order, each frame
// once, however many pages are equal. Pages of zeros are not given: a new memory file has them (see Runs). Every page is
// checked before its sink sees it.
func (img *Image) Load(ctx context.Context, sinks map[FileID]PageSink, options LoadOptions) error {
	if err := img.usable(); err != nil {
		return err
	}
	var segments []*segment
	for _, pack := range img.index.packs {
		segments = append(segments, img.segments(pack)...)
	}
	img.plan(segments, sinks)
	return img.eachSegment(ctx, options.Workers, len(segments), func(r *segmentReader, i int) error {
		s := segments[i]
		if len(s.parts) == 0 {
			return nil
		}
		return r.load(s)
	})
}

// A segment is some frames of one pack that stand side by side, read at once.
type segment struct {
	firstFrame int
	frames     int
	ordinal    uint64 // of its first page
	pages      int
	offset     int64
	stored     int
	parts      []segmentPart // where its pages go
}

// A segmentPart is pages of a segment that go to one place.
type segmentPart struct {
	sink  PageSink
	first uint64 // page of the memory file
	skip  int    // pages before it in the segment
	pages int
}

// segments cuts a pack into segments of at most loadBytes when decompressed.
func (img *Image) segments(pack indexPack) []*segment {
	var out []*segment
	var s *segment
	for i := pack.firstFrame; i < pack.firstFrame+pack.frames; i++ {
		f := img.index.frames[i]
		if s == nil || s.pages+int(f.pages) > loadBytes/PageBytes {
			s = &segment{firstFrame: i, ordinal: f.ordinal, offset: f.offset}
			out = append(out, s)
		}
		s.frames++
		s.pages += int(f.pages)
		s.stored += int(f.stored)
	}
	return out
}

// plan notes in each segment which of its pages go where.
func (img *Image) plan(segments []*segment, sinks map[FileID]PageSink) {
	number := func(ordinal uint64) int { // of the segment that has a page
		low, high := 0, len(segments)
		for high-low > 1 {
			if middle := (low + high) / 2; segments[middle].ordinal <= ordinal {
				low = middle
			} else {
				high = middle
			}
		}
		return low
	}
	for _, file := range img.index.files {
		sink := sinks[file.id]
		if sink == nil {
			continue
		}
		for _, run := range file.runs {
			if run.ordinal == zeroOrdinal {
				continue
			}
			for at := number(run.ordinal); run.Count > 0; at++ {
				s := segments[at]
				skip := run.ordinal - s.ordinal
				n := min(run.Count, uint64(s.pages)-skip)
				s.parts = append(s.parts, segmentPart{sink: sink, first: run.First, skip: int(skip), pages: int(n)})
				run = indexRun{Run: Run{First: run.First + n, Count: run.Count - n}, ordinal: run.ordinal + n}
			}
		}
	}
}

// A segmentReader has the buffers of one worker.
type segmentReader struct {
	img    *Image
	tagger tagger
	stored []byte
	raw    []byte
}

func (r *segmentReader) load(s *segment) error {
	pages, err := r.read(s, nil)
	if err != nil {
		return err
	}
	for _, part := range s.parts {
		if err := part.sink(part.first, pages[part.skip*PageBytes:][:part.pages*PageBytes]); err != nil {
			return fmt.Errorf("place page %d: %w", part.first, err)
		}
	}
	return nil
}

// read returns the pages of a segment, checked. If sum is not nil, it gets the bytes of the pack.
func (r *segmentReader) read(s *segment, sum hash.Hash) ([]byte, error) {
	x := r.img.index
	stored := r.stored[:s.stored]
	if err := r.img.readPack(x.frames[s.firstFrame], s.offset, stored); err != nil {
		return nil, err
	}
	if sum != nil {
		sum.Write(stored)
	}
	pages := r.raw[:s.pages*PageBytes]
	if s.stored == len(pages) { // then all frames are raw, as one that is not is smaller
		pages = stored
	}
	at := 0
	for i := s.firstFrame; i < s.firstFrame+s.frames; i++ {
		f := x.frames[i]
		into := pages[at*PageBytes:][:int(f.pages)*PageBytes]
		raw, err := decodeFrame(r.img.decoder, f, stored[:f.stored], into)
		if err != nil {
			return nil, r.img.frameError(i, err)
		}
		if &raw[0] != &into[0] {
			copy(into, raw)
		}
		if err := r.img.checkFrame(&r.tagger, i, into); err != nil {
			return nil, err
		}
		stored = stored[f.stored:]
		at += int(f.pages)
	}
	return pages, nil
}

// eachSegment calls visit for 0 … n-1 from several workers, until one fails or ctx ends.
func (img *Image) eachSegment(ctx context.Context, workers, n int, visit func(r *segmentReader, i int) error) error {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next atomic.Int64
	var once sync.Once
	var first error
	var group sync.WaitGroup
	for range min(workers, n) {
		group.Go(func() {
			r := &segmentReader{img: img, stored: make([]byte, loadBytes), raw: make([]byte, loadBytes+decodeSlack)}
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				err := context.Cause(ctx)
				if err == nil {
					err = visit(r, int(i))
				}
				if err != nil {
					next.Store(int64(n))
					once.Do(func() { first = err })
					return
				}
			}
		})
	}
	group.Wait()
	return first
}
