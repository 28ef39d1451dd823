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
func (w *referenceWriter) AddWrite(id int, f stateio.SourceFile, fr memmap.FileRange, _ []byte) {
	w.AddWritev(id, fr.Length(), f, []memmap.FileRange{fr}, nil)
}

// AddWritev implements stateio.AsyncWriter.AddWritev.
func (w *referenceWriter) AddWritev(id int, total uint64, _ stateio.SourceFile, ranges []memmap.FileRange, _ []unix.Iovec) {
	for _, fr := range ranges {
		var b [RangeBytes]byte
		binary.LittleEndian.PutUint64(b[:8], fr.Start)
		binary.LittleEndian.PutUint64(b[8:], fr.End)
		if _, err := w.out.Write(b[:]); err != nil && w.err == nil {
			w.err = err
		}
	}
	w.done = append(w.done, stateio.Completion{ID: id, N: total})
}

// Wait implements stateio.AsyncWriter.Wait.
func (w *referenceWriter) Wait(cs []stateio.Completion, _ int) ([]stateio.Completion, error) {
	cs = append(cs, w.done...)
	w.done = w.done[:0]
	return cs, w.err
}

// Finalize implements stateio.AsyncWriter.Finalize.
func (w *referenceWriter) Finalize() error { return w.out.Flush() }

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
