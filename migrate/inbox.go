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
	ledger      ledger
	state, meta *stream
	barrier     *wire.Barrier
	// packet takes network packets as they come.
	packet func(nic uint16, p wire.Packet)
	// limitPages bounds page numbers.
	limitPages atomic.Uint64

	mu    sync.Mutex
	moved sync.Cond // its lock is mu
	// passed is the number of the last barrier that all lanes passed. Guarded by
	// mu, as is everything below.
	passed         uint64
	committed      []wire.Range
	committedEnded bool
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

// lane handles one connection until it ends.
func (in *inbox) lane(conn net.Conn) {
	err := in.receive(wire.NewReader(conn))
	in.barrier.Break(err)
	in.state.abandonUnlessEnded()
	in.meta.abandonUnlessEnded()
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
			return fmt.Errorf("%v frame: %w", f.Type, err)
		}
	}
}

func (in *inbox) frame(f wire.Frame) error {
	if f.Stream != memoryStream && f.Type != wire.TypePacket {
		return fmt.Errorf("it names memory file %d, there is only %d", f.Stream, memoryStream)
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
	case wire.TypeCommitted:
		in.mu.Lock()
		defer in.mu.Unlock()
		var err error
		in.committed, err = wire.ParseRanges(in.committed, f.Payload, in.limitPages.Load())
		return err
	case wire.TypeBarrier:
		return in.arrive(f.Payload)
	case wire.TypeEnd:
		return in.end(f.Payload)
	case wire.TypePacket:
		p, err := wire.ParsePacket(f.Payload)
		if err == nil {
			in.packet(f.Stream, p)
		}
		return err
	}
	return errors.New("not part of this mode of migration")
}

// place puts the pages of a frame in their place.
func (in *inbox) place(payload []byte) error {
	records, err := wire.ParsePages(nil, payload, in.limitPages.Load())
	if err != nil {
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
	case wire.TypeCommitted:
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.committedEnded || end.Bytes != uint64(len(in.committed))*rangeBytes {
			return fmt.Errorf("committed list ends after %d bytes, %d ranges came", end.Bytes, len(in.committed))
		}
		in.committedEnded = true
		return nil
	}
	return errors.New("not part of this mode of migration")
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

// finish makes holes of what is not committed, and returns what came in all. The
// last barrier has been passed.
func (in *inbox) finish() (wire.Totals, error) {
	var t wire.Totals
	var stateEnded, metaEnded bool
	t.StateBytes, t.StateDigest, stateEnded = in.state.totals()
	t.MetaBytes, t.MetaDigest, metaEnded = in.meta.totals()
	in.mu.Lock()
	ranges, ended := in.committed, in.committedEnded
	in.mu.Unlock()
	if !stateEnded || !metaEnded || !ended {
		return t, errors.New("handover before the ends of state, metadata and committed pages")
	}
	committed := &pages.Set{}
	for _, r := range ranges {
		committed.AddRange(r.Page, r.End())
		t.CommittedPages += r.Count
	}
	for start, end := range in.ledger.keep(committed).Ranges() {
		if err := punchHole(in.memory, start, end); err != nil {
			return t, err
		}
	}
	t.PagesDigest = in.ledger.digest()
	return t, nil
}

func (s *stream) abandonUnlessEnded() {
	if _, _, ended := s.totals(); !ended {
		s.abandon()
	}
}
