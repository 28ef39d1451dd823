package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// inbox is the data connections, from the target's side: it places pages in the
// standby's memory file and feeds the kernel's streams.
type inbox struct {
	memory      *os.File
	charger     *charger // nil where it makes no difference whose memory it is
	ledger      ledger
	state, meta *stream
	barrier     *wire.Barrier
	// refuse, if not nil, tells the source what is wrong with what it sent, or why it could not be placed.
	refuse func(error)
	// packet takes network packets as they come.
	packet func(nic uint16, p wire.Packet)
	// limitPages bounds page numbers.
	limitPages atomic.Uint64
	// postcopy: pages may be missing at the handover.
	postcopy bool
	// fetch takes what comes after the start, where pages are missing.
	fetch atomic.Pointer[fetch]

	mu    sync.Mutex
	moved sync.Cond // its lock is mu
	// passed is the number of the last barrier that all lanes passed. Guarded by
	// mu, as is everything below.
	passed         uint64
	committed      []wire.Range
	committedEnded bool
	missing        []wire.Range
	missingEnded   bool
	finished       bool  // nothing may be changed any more
	lost           error // a lane ended
}

func newInbox(memory *os.File, lanes int, packet func(uint16, wire.Packet)) *inbox {
	in := &inbox{
		memory: memory, packet: packet, barrier: wire.NewBarrier(lanes),
		state: newStream(wire.TypeState), meta: newStream(wire.TypeMeta),
	}
	in.moved.L = &in.mu
	return in
}

// resize says how large the source's memory file is now. It may grow by some more
// until the stop.
func (in *inbox) resize(files []wire.MemoryFile) {
	const growthPages = (16 << 30) / pages.PageSize
	for _, f := range files {
		if f.Stream == memoryStream {
			in.limitPages.Store(min(f.Pages+growthPages, pages.MaxPages))
		}
	}
}

// lane handles one connection, of which r reads the frames, until it ends.
func (in *inbox) lane(conn net.Conn, r *wire.Reader) {
	err := in.receive(r)
	in.barrier.Break(err)
	in.state.abandonUnlessEnded()
	in.meta.abandonUnlessEnded()
	if f := in.fetch.Load(); f != nil {
		f.lost(conn)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.lost == nil {
		in.lost = fmt.Errorf("data connection: %w", err)
	}
	in.moved.Broadcast()
}

func (in *inbox) receive(r *wire.Reader) error {
	for {
		f, err := r.Next()
		if err != nil {
			return err
		}
		if err := in.frame(f); err != nil {
			err = fmt.Errorf("%v frame: %w", f.Type, err)
			if in.refuse != nil && in.fetch.Load() == nil && !in.isFinished() {
				in.refuse(err)
			}
			return err
		}
	}
}

func (in *inbox) frame(f wire.Frame) error {
	if f.Stream != memoryStream && f.Type != wire.TypePacket {
		return fmt.Errorf("it names memory file %d, there is only %d", f.Stream, memoryStream)
	}
	if f.Type == wire.TypePacket {
		p, err := wire.ParsePacket(f.Payload)
		if err == nil {
			in.packet(f.Stream, p)
		}
		return err
	}
	if fetch := in.fetch.Load(); fetch != nil {
		return fetch.frame(f)
	}
	if in.isFinished() {
		return errors.New("it comes after the handover")
	}
	switch f.Type {
	case wire.TypePages:
		return in.place(f.Payload)
	case wire.TypePunch:
		ranges, err := wire.ParseRanges(nil, f.Payload, in.limitPages.Load())
		if err != nil {
			return err
		}
		return in.punch(ranges)
	case wire.TypeState:
		return in.state.add(f.Payload)
	case wire.TypeMeta:
		return in.meta.add(f.Payload)
	case wire.TypeCommitted, wire.TypeMissing:
		return in.list(f.Type, f.Payload)
	case wire.TypeBarrier:
		return in.arrive(f.Payload)
	case wire.TypeEnd:
		return in.end(f.Payload)
	}
	return errNotThisMode
}

// errNotThisMode says that a frame belongs to another mode.
var errNotThisMode = errors.New("not part of this mode of migration")

func (in *inbox) isFinished() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.finished
}

// list takes a piece of the committed or the missing pages.
func (in *inbox) list(t wire.Type, payload []byte) (err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.finished:
		err = errors.New("it comes after the handover")
	case t == wire.TypeCommitted:
		in.committed, err = wire.ParseRanges(in.committed, payload, in.limitPages.Load())
	case in.postcopy:
		in.missing, err = wire.ParseRanges(in.missing, payload, in.limitPages.Load())
	default:
		err = errNotThisMode
	}
	return err
}

// place puts the pages of a frame in their place.
func (in *inbox) place(payload []byte) error {
	records, err := wire.ParsePages(nil, payload, in.limitPages.Load())
	if err != nil {
		return err
	}
	if err := in.charger.place(records); err != nil {
		return err
	}
	for _, r := range records {
		switch r.Kind {
		case wire.RecordZero:
			// A hole reads as zeros, and takes no memory.
			if err := in.punch([]wire.Range{{Page: r.Page, Count: r.Count}}); err != nil {
				return err
			}
			in.ledger.zero(r.Page, r.Count)
			continue
		case wire.RecordDuplicate:
			r.Data = make([]byte, min(r.Count, wire.MaxBatchPages)*pages.PageSize)
			if uint64(len(r.Data)) != r.Count*pages.PageSize {
				return fmt.Errorf("duplicate of %d pages, at most %d", r.Count, wire.MaxBatchPages)
			}
			if _, err := in.memory.ReadAt(r.Data, int64(r.From*pages.PageSize)); err != nil {
				return err
			}
		}
		if _, err := in.memory.WriteAt(r.Data, int64(r.Page*pages.PageSize)); err != nil {
			return fmt.Errorf("place pages in sandbox memory: %w", err)
		}
		in.ledger.place(r.Page, r.Data)
	}
	return nil
}

// punch makes ranges holes.
func (in *inbox) punch(ranges []wire.Range) error {
	for _, r := range ranges {
		if err := punchHole(in.memory, r.Page, r.End()); err != nil {
			return err
		}
		in.charger.punched(r.Page, r.End())
		in.ledger.forget(r.Page, r.End())
	}
	return nil
}

func punchHole(memory *os.File, start, end uint64) error {
	err := unix.Fallocate(int(memory.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(start*pages.PageSize), int64((end-start)*pages.PageSize))
	if err != nil {
		return fmt.Errorf("punch sandbox memory: %w", err)
	}
	return nil
}

// arrive waits at a barrier for the other lanes.
func (in *inbox) arrive(payload []byte) error {
	number, err := wire.ParseBarrier(payload)
	if err != nil {
		return err
	}
	last, err := in.barrier.Arrive(number)
	if err != nil || !last {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.passed = number
	in.moved.Broadcast()
	return nil
}

func (in *inbox) end(payload []byte) error {
	end, err := wire.ParseEnd(payload)
	if err != nil {
		return err
	}
	switch end.Type {
	case wire.TypeState:
		return in.state.end(end.Bytes)
	case wire.TypeMeta:
		return in.meta.end(end.Bytes)
	case wire.TypeBundle:
		return errNotThisMode // it comes before the plan
	case wire.TypeCommitted:
		return in.endList(end, &in.committed, &in.committedEnded)
	}
	if !in.postcopy {
		return errNotThisMode
	}
	return in.endList(end, &in.missing, &in.missingEnded)
}

// endList takes the end of one of the lists.
func (in *inbox) endList(end wire.End, list *[]wire.Range, ended *bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if *ended || end.Bytes != uint64(len(*list))*rangeBytes {
		return fmt.Errorf("%v list ends after %d bytes, %d ranges came", end.Type, end.Bytes, len(*list))
	}
	*ended = true
	return nil
}

// rangeBytes is the size of a range in a frame.
const rangeBytes = 16

// await returns when all lanes have passed barrier number.
func (in *inbox) await(ctx context.Context, number uint64) error {
	defer context.AfterFunc(ctx, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.moved.Broadcast()
	})()
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.passed < number {
		switch {
		case in.lost != nil:
			return in.lost
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		in.moved.Wait()
	}
	return nil
}

// finish makes holes of what is not committed, and returns what came in all and
// what is missing. The last barrier has been passed.
func (in *inbox) finish() (t wire.Totals, missing *pages.Set, err error) {
	var stateEnded, metaEnded bool
	t.StateBytes, t.StateDigest, stateEnded = in.state.totals()
	t.MetaBytes, t.MetaDigest, metaEnded = in.meta.totals()
	in.mu.Lock()
	in.finished = stateEnded && metaEnded && in.committedEnded && in.missingEnded == in.postcopy
	finished, committed, missing := in.finished, setOf(in.committed), setOf(in.missing)
	in.mu.Unlock()
	if !finished {
		return t, nil, errors.New("handover before the ends of state, metadata and lists of pages")
	}
	t.CommittedPages, t.MissingPages = committed.Count(), missing.Count()
	outside := missing.Clone()
	outside.Subtract(committed)
	if !outside.Empty() {
		return t, nil, fmt.Errorf("%d missing pages are not committed", outside.Count())
	}
	// What they were before does not count, and must not be there: it would be taken for what
	// is to come.
	stale := in.ledger.known()
	stale.Intersect(missing)
	for start, end := range stale.Ranges() {
		in.ledger.forget(start, end)
		if err := punchHole(in.memory, start, end); err != nil {
			return t, nil, err
		}
	}
	for start, end := range in.ledger.keep(committed).Ranges() {
		if err := punchHole(in.memory, start, end); err != nil {
			return t, nil, err
		}
	}
	t.PagesDigest = in.ledger.digest()
	return t, missing, nil
}

// setOf makes a set of a list.
func setOf(list []wire.Range) *pages.Set {
	set := &pages.Set{}
	for _, r := range list {
		set.AddRange(r.Page, r.End())
	}
	return set
}

func (s *stream) abandonUnlessEnded() {
	if _, _, ended := s.totals(); !ended {
		s.abandon()
	}
}
