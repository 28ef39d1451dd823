package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
)

// Page requests, on a stream socket between the sandbox (asks) and the pager
// (places the pages in the memory file, then answers). All numbers are little
// endian.
//
//	request  id u32, count u32, count × (first byte u64, end u64)
//	answer   id u32, 0 u32
//
// The answer AnswerAll completes every request, those to come included: all
// pages are in their place.
//
// The pager never answers with an error: pages that cannot be had end the
// connection.
const (
	// RequestHeaderBytes is the length of a request without its ranges, and of
	// an answer.
	RequestHeaderBytes = 8
	// MaxRequestRanges bounds the ranges of one request.
	MaxRequestRanges = 64
	// MaxRequestBytes bounds the memory that one request asks for: who waits for a
	// page waits for no more than that.
	MaxRequestBytes = 128 << 10
	// wholeBytes bounds it where nobody waits, since all pages are there before
	// the kernel runs. The kernel's work for a request would otherwise lengthen
	// the stop with the size of its memory.
	wholeBytes = 1 << 30
	// MaxRequests bounds the requests under way at once.
	MaxRequests = 4
	// AnswerAll is the id of an answer to all requests.
	AnswerAll = 1<<32 - 1
)

// pageReader is a stateio.AsyncReader that reads no page: it asks the pager to
// place each range in the memory file.
type pageReader struct {
	socket *os.File
	// whole says that all pages come at once, by AnswerAll.
	whole bool

	mu    sync.Mutex
	cond  sync.Cond
	bytes [MaxRequests]uint64 // bytes asked for, by request ID; guarded by mu
	done  []stateio.Completion
	open  map[int]bool // requests that are not answered
	all   bool         // no request needs to be made any more
	err   error
}

func newPageReader(socket *os.File) *pageReader {
	r := &pageReader{socket: socket, open: make(map[int]bool)}
	r.cond.L = &r.mu
	go r.receive()
	return r
}

// Close implements stateio.AsyncReader.Close. The pager sees the end of the
// connection: all pages are there, or this process is about to end.
func (r *pageReader) Close() error {
	// Close alone would wait for receive, which waits for the pager.
	if err := unix.Shutdown(int(r.socket.Fd()), unix.SHUT_RDWR); err != nil {
		return err
	}
	return r.socket.Close()
}

// MaxReadBytes implements stateio.AsyncReader.MaxReadBytes.
func (r *pageReader) MaxReadBytes() uint64 {
	if r.whole {
		return wholeBytes
	}
	return MaxRequestBytes
}

// MaxRanges implements stateio.AsyncReader.MaxRanges.
func (*pageReader) MaxRanges() int { return MaxRequestRanges }

// MaxParallel implements stateio.AsyncReader.MaxParallel.
func (*pageReader) MaxParallel() int { return MaxRequests }

// NeedRegisterDestinationFD implements
// stateio.AsyncReader.NeedRegisterDestinationFD. It is what makes the kernel
// pass file ranges.
func (*pageReader) NeedRegisterDestinationFD() bool { return true }

// RegisterDestinationFD implements stateio.AsyncReader.RegisterDestinationFD.
// There is one memory file, which the pager has already.
func (*pageReader) RegisterDestinationFD(fd int32, _ uint64, _ []stateio.ClientFileRangeSetting) (stateio.DestinationFile, error) {
	return fd, nil
}

// AddRead implements stateio.AsyncReader.AddRead.
func (r *pageReader) AddRead(id int, off int64, f stateio.DestinationFile, fr memmap.FileRange, _ []byte) {
	r.AddReadv(id, off, fr.Length(), f, []memmap.FileRange{fr}, nil)
}

// AddReadv implements stateio.AsyncReader.AddReadv. The offset in the file of
// pages does not matter: a page is found by its place in memory.
func (r *pageReader) AddReadv(id int, _ int64, total uint64, _ stateio.DestinationFile, ranges []memmap.FileRange, _ []unix.Iovec) {
	r.mu.Lock()
	if r.all {
		r.done = append(r.done, stateio.Completion{ID: id, N: total})
		r.mu.Unlock()
		r.cond.Signal()
		return
	}
	r.bytes[id], r.open[id] = total, true
	r.mu.Unlock()
	request := make([]byte, 0, RequestHeaderBytes+len(ranges)*RangeBytes)
	request = binary.LittleEndian.AppendUint32(request, uint32(id))
	request = binary.LittleEndian.AppendUint32(request, uint32(len(ranges)))
	for _, fr := range ranges {
		request = binary.LittleEndian.AppendUint64(request, fr.Start)
		request = binary.LittleEndian.AppendUint64(request, fr.End)
	}
	if _, err := r.socket.Write(request); err != nil {
		r.fail(fmt.Errorf("ask for pages: %w", err)) // does nothing if all are there
	}
}

// Wait implements stateio.AsyncReader.Wait.
func (r *pageReader) Wait(cs []stateio.Completion, minCompletions int) ([]stateio.Completion, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.done) < minCompletions && r.err == nil {
		r.cond.Wait()
	}
	cs = append(cs, r.done...)
	r.done = r.done[:0]
	return cs, r.err
}

// receive takes in the pager's answers until the connection ends.
func (r *pageReader) receive() {
	var answer [RequestHeaderBytes]byte
	for {
		if _, err := io.ReadFull(r.socket, answer[:]); err != nil {
			r.fail(errors.New("pager went away"))
			return
		}
		id := binary.LittleEndian.Uint32(answer[:4])
		if id == AnswerAll {
			r.answerAll()
			return
		}
		if id >= MaxRequests {
			r.fail(fmt.Errorf("pager answered request %d, which was never made", id))
			return
		}
		r.mu.Lock()
		r.done = append(r.done, stateio.Completion{ID: int(id), N: r.bytes[id]})
		delete(r.open, int(id))
		r.mu.Unlock()
		r.cond.Signal()
	}
}

// answerAll completes what was asked for, and what will be.
func (r *pageReader) answerAll() {
	r.mu.Lock()
	r.all = true
	for id := range r.open {
		r.done = append(r.done, stateio.Completion{ID: id, N: r.bytes[id]})
	}
	clear(r.open)
	r.mu.Unlock()
	r.cond.Broadcast()
}

func (r *pageReader) fail(err error) {
	r.mu.Lock()
	if r.err == nil && !r.all {
		r.err = err
	}
	r.mu.Unlock()
	r.cond.Broadcast()
}
