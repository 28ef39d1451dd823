package inside

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
)

// referenceWriter is a stateio.AsyncWriter that writes no page: it tells the
// pager which ranges of the memory file belong to the saved kernel, and
// completes at once.
type referenceWriter struct {
	out  *bufio.Writer
	file *os.File
	err  error
	done []stateio.Completion
	// first, if not nil, is called before the first range: memory does not
	// change any more.
	first func()
}

func newReferenceWriter(file *os.File) *referenceWriter {
	return &referenceWriter{out: bufio.NewWriterSize(file, 64<<10), file: file}
}

// Close implements stateio.AsyncWriter.Close. The pager sees the end of file.
func (w *referenceWriter) Close() error { return w.file.Close() }

// MaxWriteBytes implements stateio.AsyncWriter.MaxWriteBytes.
func (*referenceWriter) MaxWriteBytes() uint64 { return 1 << 30 }

// MaxRanges implements stateio.AsyncWriter.MaxRanges.
func (*referenceWriter) MaxRanges() int { return 1024 }

// MaxParallel implements stateio.AsyncWriter.MaxParallel.
func (*referenceWriter) MaxParallel() int { return 4 }

// NeedRegisterSourceFD implements stateio.AsyncWriter.NeedRegisterSourceFD. It
// is what makes the kernel pass file ranges.
func (*referenceWriter) NeedRegisterSourceFD() bool { return true }

// RegisterSourceFD implements stateio.AsyncWriter.RegisterSourceFD. There is
// one memory file, which the pager has already.
func (*referenceWriter) RegisterSourceFD(fd int32, _ uint64, _ []stateio.ClientFileRangeSetting) (stateio.SourceFile, error) {
	return fd, nil
}

// Reserve implements stateio.AsyncWriter.Reserve.
func (*referenceWriter) Reserve(uint64) {}

// AddWrite implements stateio.AsyncWriter.AddWrite.
func (w *referenceWriter) AddWrite(id int, _ stateio.SourceFile, fr memmap.FileRange, mapping []byte) {
	w.add(fr, mapping)
	w.done = append(w.done, stateio.Completion{ID: id, N: fr.Length()})
}

// AddWritev implements stateio.AsyncWriter.AddWritev. The mappings follow each
// other as the ranges do, but are not cut at the same places.
func (w *referenceWriter) AddWritev(id int, total uint64, _ stateio.SourceFile, ranges []memmap.FileRange, mappings []unix.Iovec) {
	memory := cursor{mappings: mappings}
	for _, fr := range ranges {
		inline := make([]byte, 0, inlineLength(fr))
		for uint64(len(inline)) < inlineLength(fr) {
			inline = append(inline, memory.next(inlineLength(fr)-uint64(len(inline)))...)
		}
		for left := fr.Length() - uint64(len(inline)); left > 0; {
			left -= uint64(len(memory.next(left)))
		}
		w.add(fr, inline)
	}
	w.done = append(w.done, stateio.Completion{ID: id, N: total})
}

// cursor walks over mappings.
type cursor struct {
	mappings []unix.Iovec
	offset   uint64 // in the first of them
}

// next returns the next bytes, at least one and at most n. There must be some.
func (c *cursor) next(n uint64) []byte {
	first := stateio.SliceFromIovec(c.mappings[0])[c.offset:]
	if uint64(len(first)) > n {
		c.offset += n
		return first[:n]
	}
	c.mappings, c.offset = c.mappings[1:], 0
	return first
}

// inlineLength is how much of fr travels with its record.
func inlineLength(fr memmap.FileRange) uint64 {
	if fr.Start >= InlineBytes {
		return 0
	}
	return min(fr.End, InlineBytes) - fr.Start
}

// add sends one range, cut at InlineBytes, and the bytes of its inline part.
func (w *referenceWriter) add(fr memmap.FileRange, data []byte) {
	if w.first != nil {
		w.first()
		w.first = nil
	}
	if n := inlineLength(fr); n > 0 {
		w.record(fr.Start, fr.Start+n)
		w.write(data[:n])
		fr.Start += n
	}
	if fr.Length() > 0 {
		w.record(fr.Start, fr.End)
	}
}

func (w *referenceWriter) record(start, end uint64) {
	var b [RangeBytes]byte
	binary.LittleEndian.PutUint64(b[:8], start)
	binary.LittleEndian.PutUint64(b[8:], end)
	w.write(b[:])
}

func (w *referenceWriter) write(data []byte) {
	if _, err := w.out.Write(data); err != nil && w.err == nil {
		w.err = err
	}
}

// Wait implements stateio.AsyncWriter.Wait.
func (w *referenceWriter) Wait(cs []stateio.Completion, _ int) ([]stateio.Completion, error) {
	cs = append(cs, w.done...)
	w.done = w.done[:0]
	return cs, w.err
}

// Finalize implements stateio.AsyncWriter.Finalize.
func (w *referenceWriter) Finalize() error {
	w.record(0, 0)
	return w.out.Flush()
}

// bufferedFile collects the small writes of the state encoder.
type bufferedFile struct {
	*bufio.Writer
	file io.Closer
}

func newBufferedFile(f *os.File) *bufferedFile {
	return &bufferedFile{Writer: bufio.NewWriterSize(f, 64<<10), file: f}
}

// Close flushes and closes.
func (b *bufferedFile) Close() error {
	flushErr := b.Flush()
	closeErr := b.file.Close()
	if flushErr != nil {
		return flushErr
	}
	return closeErr
}
