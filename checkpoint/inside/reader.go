package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
)

// Page requests, on a stream socket between the sandbox and the pager. All numbers are little
// endian. A kernel that comes from an image asks (the pager places the pages in the memory
// file, then answers):
//
//	request  id u32, count u32, count × (first byte u64, end u64)
//	answer   id u32, 0 u32
//
// A standby asks for nothing before it was told which pages are in their place, by an
// answer to no request:
//
//	AnswerAll      u32, 0 u32: all
//	AnswerMissing  u32, count u32, count × (first byte u64, end u64): all others
//
// The pager then brings what is missing, in an order of its own, and these are all that is
// said:
//
//	RequestMapped  u32, 1 u32, the addresses (first u64, end u64) at which the memory
//	               file is mapped: the kernel has a trap, and accesses to missing pages are
//	               seen there (package faults). Nothing is placed before
//	RequestNeed    u32, count u32, count × (first byte u64, end u64): somebody waits for these
//	AnswerPlaced   u32, count u32, count × (first byte u64, end u64): these are in their place
//	RequestDone    u32, 0 u32: the kernel has every page
//
// The pager never answers with an error. When pages cannot be had it ends the
// connection, and the kernel ends; but for one that was told AnswerMissing,
// which waits for the next pager, see Checkpoint.Attach.
const (
	// RequestHeaderBytes is the length of a request without its ranges, and of
	// an answer.
	RequestHeaderBytes = 8
	// MaxRequestRanges bounds the ranges of one request.
	MaxRequestRanges = 64
	// MaxRequestBytes bounds the memory that one request asks for: who waits for a
	// page waits for no more than that.
	MaxRequestBytes = 128 << 10
	// wholeBytes bounds it where nobody waits for a request: all pages are there before
	// the kernel runs, or accesses are trapped. The kernel's work for a request would otherwise
	// lengthen the stop with the size of its memory.
	wholeBytes = 1 << 30
	// MaxRequests bounds the requests under way at once.
	MaxRequests = 4
	// MaxMissingRanges bounds the ranges of AnswerMissing.
	MaxMissingRanges = 4 << 20
	// AnswerAll, AnswerMissing and AnswerPlaced are the ids of answers to no request.
	AnswerAll     = 1<<32 - 1
	AnswerMissing = 1<<32 - 2
	AnswerPlaced  = 1<<32 - 3
	// RequestDone, RequestMapped and RequestNeed are the ids of requests without answers.
	RequestDone   = 1<<32 - 1
	RequestMapped = 1<<32 - 2
	RequestNeed   = 1<<32 - 3
)

// pageReader is a stateio.AsyncReader that reads no page: it asks the pager to
// place each range in the memory file.
type pageReader struct {
	// standby says that all pages come at once, by AnswerAll, and that nothing is
	// asked for.
	standby bool
	// charge allocates memory before a pager places pages there; nil: it need not.
	charge func(start, end uint64) error

	mu   sync.Mutex
	cond sync.Cond
	// socket leads to the pager; nil while there is none. Guarded by mu, as is
	// everything below. It is written to with mu held: what is on its way is
	// small, for there are at most MaxRequests.
	socket *os.File
	// asked are the kernel's requests by their IDs; without ranges where none is
	// under way.
	asked [MaxRequests]askedPages
	done  []stateio.Completion
	all   bool // every page is in its place
	err   error
}

// askedPages is one request of the kernel.
type askedPages struct {
	bytes  uint64
	ranges []memmap.FileRange
}

// newPageReader makes a reader for a kernel whose pages come from an image or, with
// standby, are all in their place before it runs. charge may be nil.
func newPageReader(socket *os.File, standby bool, charge func(start, end uint64) error) *pageReader {
	r := &pageReader{socket: socket, standby: standby, charge: charge}
	r.cond.L = &r.mu
	go r.receive(socket)
	return r
}

// Close implements stateio.AsyncReader.Close: all pages are there, or this
// process is about to end.
func (r *pageReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	socket := r.socket
	r.socket = nil
	if socket == nil {
		return nil
	}
	return hangUp(socket)
}

// hangUp closes a socket under its reader. Close alone would wait for receive,
// which waits for the pager.
func hangUp(socket *os.File) error {
	return errors.Join(unix.Shutdown(int(socket.Fd()), unix.SHUT_RDWR), socket.Close())
}

// MaxReadBytes implements stateio.AsyncReader.MaxReadBytes.
func (r *pageReader) MaxReadBytes() uint64 {
	if r.standby {
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
	defer r.mu.Unlock()
	r.asked[id] = askedPages{bytes: total, ranges: slices.Clone(ranges)}
	r.ask(id)
}

// ask completes a request of which nothing is missing, and hands any other on
// to the pager. The caller holds mu.
func (r *pageReader) ask(id int) {
	ranges := r.asked[id].ranges
	if r.all {
		r.complete(id)
		return
	}
	if r.standby || r.socket == nil {
		return
	}
	request := make([]byte, 0, RequestHeaderBytes+len(ranges)*RangeBytes)
	request = binary.LittleEndian.AppendUint32(request, uint32(id))
	request = binary.LittleEndian.AppendUint32(request, uint32(len(ranges)))
	for _, fr := range ranges {
		request = binary.LittleEndian.AppendUint64(request, fr.Start)
		request = binary.LittleEndian.AppendUint64(request, fr.End)
		if r.charge != nil {
			// Where it fails, placing the page does, too.
			if err := r.charge(fr.Start, fr.End); err != nil {
				log.Warningf("%v", err)
			}
		}
	}
	if _, err := r.socket.Write(request); err != nil {
		r.lose(r.socket, fmt.Errorf("ask for pages: %w", err))
	}
}

// complete gives the kernel the pages of a request. The caller holds mu.
func (r *pageReader) complete(id int) {
	r.done = append(r.done, stateio.Completion{ID: id, N: r.asked[id].bytes})
	r.asked[id] = askedPages{}
	r.cond.Signal()
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

// receive takes in a pager's answers until the connection ends.
func (r *pageReader) receive(socket *os.File) {
	for {
		err := r.answer(socket)
		if err != nil {
			r.mu.Lock()
			r.lose(socket, err)
			r.mu.Unlock()
			return
		}
	}
}

// answer takes in one answer.
func (r *pageReader) answer(socket io.Reader) error {
	var header [RequestHeaderBytes]byte
	if _, err := io.ReadFull(socket, header[:]); err != nil {
		return errors.New("pager went away")
	}
	id := binary.LittleEndian.Uint32(header[:4])
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.standby && id == AnswerAll:
		r.all = true
		for id := range r.asked {
			if len(r.asked[id].ranges) > 0 {
				r.complete(id)
			}
		}
	case r.standby && id == AnswerMissing:
		return errors.New("pager says that pages are missing, after it said that none would be")
	case r.standby || id >= MaxRequests || len(r.asked[id].ranges) == 0:
		return fmt.Errorf("pager answered request %d, which was never made", id)
	default:
		r.complete(int(id))
	}
	return nil
}

// lose notes the loss of a pager, which is an error as long as it is needed. The caller
// holds mu.
func (r *pageReader) lose(socket *os.File, err error) {
	if r.socket != socket {
		return // closed, or lost already
	}
	r.socket = nil
	hangUp(socket)
	if r.err == nil && !r.all {
		r.err = err
		r.cond.Broadcast()
	}
}
