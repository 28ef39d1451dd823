package inside

import (
	"bufio"
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

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Page requests, on a stream socket between the sandbox (asks) and the pager
// (places the pages in the memory file, then answers). All numbers are little
// endian.
//
//	request  id u32, count u32, count × (first byte u64, end u64)
//	answer   id u32, 0 u32
//
// Two more answers belong to no request. They say which pages are in their
// place, so that only the others are asked for; a standby asks for nothing
// before one of them has come:
//
//	AnswerAll      u32, 0 u32: all
//	AnswerMissing  u32, count u32, count × (first byte u64, end u64): all others
//
// A kernel that was told one of them ends with a request RequestDone, without
// ranges, when it has every page.
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
	// wholeBytes bounds it where nobody waits, since all pages are there before
	// the kernel runs: a standby that was told so takes no AnswerMissing. The kernel's work for a request would otherwise lengthen
	// the stop with the size of its memory.
	wholeBytes = 1 << 30
	// MaxRequests bounds the requests under way at once.
	MaxRequests = 4
	// MaxMissingRanges bounds the ranges of AnswerMissing.
	MaxMissingRanges = 4 << 20
	// AnswerAll and AnswerMissing are the ids of answers to no request.
	AnswerAll     = 1<<32 - 1
	AnswerMissing = 1<<32 - 2
	// RequestDone is the id of a kernel's last request.
	RequestDone = 1<<32 - 1
)

// pageReader is a stateio.AsyncReader that reads no page: it asks the pager to
// place each range in the memory file.
type pageReader struct {
	// whole says that all pages come at once, by AnswerAll. It forbids
	// AnswerMissing: its requests are too large to wait for.
	whole bool
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
	// held: the pager has not said yet what is missing, and will.
	held bool
	// missing are the pages that are not in their place; nil where any may be.
	missing *pages.Set
	// lasting: the loss of the pager is no error.
	lasting bool
	closed  bool
	err     error
}

// askedPages is one request of the kernel.
type askedPages struct {
	bytes  uint64
	ranges []memmap.FileRange
}

// newPageReader makes a reader. With standby, the pager says what is missing
// before anything is asked for, and with whole that is nothing. charge may be nil.
func newPageReader(socket *os.File, standby, whole bool, charge func(start, end uint64) error) *pageReader {
	r := &pageReader{socket: socket, held: standby, whole: whole, charge: charge}
	r.cond.L = &r.mu
	go r.receive(socket)
	return r
}

// Close implements stateio.AsyncReader.Close: all pages are there, or this
// process is about to end.
func (r *pageReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	socket := r.socket
	r.socket = nil
	if socket == nil {
		return nil
	}
	if r.err == nil && r.missing != nil {
		// Where it does not arrive, the next pager is told.
		socket.Write(binary.LittleEndian.AppendUint64(nil, RequestDone))
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
	defer r.mu.Unlock()
	r.asked[id] = askedPages{bytes: total, ranges: slices.Clone(ranges)}
	if !r.held {
		r.ask(id)
	}
}

// ask completes a request of which nothing is missing, and hands any other on
// to the pager, if there is one. The caller holds mu.
func (r *pageReader) ask(id int) {
	ranges := r.asked[id].ranges
	if !r.lacks(ranges) {
		r.complete(id)
		return
	}
	if r.socket == nil {
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

// lacks says whether a page of some ranges may be missing. The caller holds mu.
func (r *pageReader) lacks(ranges []memmap.FileRange) bool {
	if r.missing == nil {
		return true
	}
	for _, fr := range ranges {
		for range r.missing.RangesWithin(fr.Start/pages.PageSize, fr.End/pages.PageSize) {
			return true
		}
	}
	return false
}

// complete gives the kernel the pages of a request. The caller holds mu.
func (r *pageReader) complete(id int) {
	asked := r.asked[id]
	r.asked[id] = askedPages{}
	if r.missing != nil {
		for _, fr := range asked.ranges {
			r.missing.RemoveRange(fr.Start/pages.PageSize, fr.End/pages.PageSize)
		}
	}
	r.done = append(r.done, stateio.Completion{ID: id, N: asked.bytes})
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
	// What is missing comes in many small pieces, in the stop.
	buffered := bufio.NewReaderSize(socket, 64<<10)
	for {
		err := r.answer(buffered)
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
	id, count := binary.LittleEndian.Uint32(header[:4]), binary.LittleEndian.Uint32(header[4:])
	missing := &pages.Set{}
	if id == AnswerMissing {
		if err := readMissing(socket, count, missing); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case id == AnswerAll || id == AnswerMissing:
		return r.learn(missing)
	case id >= MaxRequests || len(r.asked[id].ranges) == 0:
		return fmt.Errorf("pager answered request %d, which was never made", id)
	default:
		r.complete(int(id))
	}
	return nil
}

// readMissing reads the ranges of AnswerMissing.
func readMissing(socket io.Reader, count uint32, missing *pages.Set) error {
	if count > MaxMissingRanges {
		return fmt.Errorf("pager names %d missing ranges, at most %d", count, MaxMissingRanges)
	}
	var record [RangeBytes]byte
	for range count {
		if _, err := io.ReadFull(socket, record[:]); err != nil {
			return errors.New("pager went away")
		}
		start, end := binary.LittleEndian.Uint64(record[:])/pages.PageSize, binary.LittleEndian.Uint64(record[8:])/pages.PageSize
		if start >= end || end > pages.MaxPages {
			return fmt.Errorf("pager names missing pages %d to %d", start, end)
		}
		missing.AddRange(start, end)
	}
	return nil
}

// learn takes in what is missing, and goes on with the requests that waited for
// that. The caller holds mu.
func (r *pageReader) learn(missing *pages.Set) error {
	if r.whole && !missing.Empty() {
		return fmt.Errorf("pager says that %d pages are missing, after it said that none would be", missing.Count())
	}
	r.missing, r.held = missing, false
	r.lasting = !missing.Empty()
	r.askAgain()
	return nil
}

// askAgain goes on with every request under way. The caller holds mu.
func (r *pageReader) askAgain() {
	for id := range r.asked {
		if len(r.asked[id].ranges) > 0 {
			r.ask(id)
		}
	}
}

// lose notes the loss of a pager: an error, or a wait for the next. The caller
// holds mu.
func (r *pageReader) lose(socket *os.File, err error) {
	if r.socket != socket {
		return // closed, or lost already
	}
	r.socket = nil
	hangUp(socket)
	if !r.lasting && r.err == nil && (r.missing == nil || !r.missing.Empty()) {
		r.err = err
		r.cond.Broadcast()
	}
}
