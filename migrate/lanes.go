package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// lanes are the data connections, from the source's side. Their methods may be
// called concurrently.
type lanes struct {
	list []*lane
	next atomic.Uint64

	pagesSent, pagesZero, pagesDuplicate, pagesPunched atomic.Uint64
}

// lane is one data connection with the pages that are not sent yet.
type lane struct {
	conn net.Conn

	mu    sync.Mutex
	w     *wire.Writer // guarded by mu, as is everything below
	batch wire.PageBatch
	// firsts are the pages that this lane sent with their content since the last barrier.
	firsts firsts
}

// newLanes takes over the connections. pace bounds them all together.
func newLanes(ctx context.Context, conns []net.Conn, codec wire.Codec, pace *wire.Pace) (*lanes, error) {
	l := &lanes{}
	for _, conn := range conns {
		w, err := wire.NewWriter(pace.Writer(ctx, conn), wire.WriterOptions{Codec: codec})
		if err != nil {
			return nil, err
		}
		l.list = append(l.list, &lane{conn: conn, w: w})
	}
	return l, nil
}

// close ends the connections.
func (l *lanes) close() {
	for _, lane := range l.list {
		lane.conn.Close()
	}
}

// pages sends pages of which hashes are known with their content, the zero ones, and those that a lane has just sent, as references.
func (l *lanes) pages(first uint64, data []byte, hashes []pages.Hash) error {
	return l.pagesOn(l.list[l.next.Add(1)%uint64(len(l.list))], first, data, hashes)
}

// pagesOn is pages on a certain lane. Without hashes, only zero pages become references.
func (l *lanes) pagesOn(lane *lane, first uint64, data []byte, hashes []pages.Hash) error {
	lane.mu.Lock()
	defer lane.mu.Unlock()
	for count := uint64(len(data) / pages.PageSize); count > 0; {
		run := lane.classify(first, data, hashes)
		var err error
		switch run.kind {
		case wire.RecordZero:
			l.pagesZero.Add(run.count)
			err = lane.zero(first, run.count)
		case wire.RecordDuplicate:
			l.pagesDuplicate.Add(run.count)
			err = lane.duplicate(first, run.count, run.from)
		default:
			l.pagesSent.Add(run.count)
			err = lane.data(first, data[:run.count*pages.PageSize])
		}
		if err != nil {
			return err
		}
		first, data, count = first+run.count, data[run.count*pages.PageSize:], count-run.count
		if hashes != nil {
			hashes = hashes[run.count:]
		}
	}
	return nil
}

// pageRun are pages that become one record.
type pageRun struct {
	kind  wire.RecordKind
	count uint64
	from  uint64 // of duplicates
}

// classify returns the longest run that begins with the first of some pages. It notes what is going to be sent.
func (l *lane) classify(first uint64, data []byte, hashes []pages.Hash) (run pageRun) {
	for i := range uint64(len(data) / pages.PageSize) {
		next, page := pageRun{kind: wire.RecordData}, data[i*pages.PageSize:][:pages.PageSize]
		if isZero(page) {
			next.kind = wire.RecordZero
		} else if hashes != nil {
			if from, ok := l.firsts.find(hashes[i], page); ok {
				next.kind, next.from = wire.RecordDuplicate, from
			}
		}
		if i > 0 && !run.continues(first, next) {
			return run
		}
		if next.kind == wire.RecordData && hashes != nil {
			l.firsts.note(hashes[i], first+i, page)
		}
		if i == 0 {
			run = next
		}
		run.count++
	}
	return run
}

// continues says whether a page of the kind of next can be the next one of a run that begins at first.
func (r pageRun) continues(first uint64, next pageRun) bool {
	if r.kind != next.kind || r.kind != wire.RecordDuplicate {
		return r.kind == next.kind
	}
	apart := max(first, r.from) - min(first, r.from)
	// A record must not copy pages onto themselves, nor too many.
	return next.from == r.from+r.count && r.count < min(apart, wire.MaxBatchPages)
}

// data adds pages to the batch, and sends it as often as it is full. The caller
// holds mu, as for all methods of lane.
func (l *lane) data(first uint64, data []byte) error {
	for len(data) > 0 {
		n := min(l.batch.Room(), uint64(len(data)/pages.PageSize))
		if n == 0 {
			if err := l.sendBatch(); err != nil {
				return err
			}
			continue
		}
		copy(l.batch.Data(first, n), data)
		first, data = first+n, data[n*pages.PageSize:]
	}
	return nil
}

func (l *lane) zero(first, count uint64) error {
	if l.batch.Zero(first, count) {
		return nil
	}
	if err := l.sendBatch(); err != nil {
		return err
	}
	l.batch.Zero(first, count)
	return nil
}

func (l *lane) duplicate(first, count, from uint64) error {
	if l.batch.Duplicate(first, count, from) {
		return nil
	}
	if err := l.sendBatch(); err != nil {
		return err
	}
	l.batch.Duplicate(first, count, from)
	return nil
}

func (l *lane) sendBatch() error {
	if l.batch.Empty() {
		return nil
	}
	defer l.batch.Reset()
	return l.w.WriteFrame(wire.TypePages, memoryStream, l.batch.Payload())
}

// flush sends all that is buffered.
func (l *lane) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.sendBatch(); err != nil {
		return err
	}
	return l.w.Flush()
}

// frame sends a frame on one lane, behind what that has sent.
func (l *lanes) frame(on int, t wire.Type, stream uint16, payload []byte, flush bool) error {
	lane := l.list[on%len(l.list)]
	lane.mu.Lock()
	defer lane.mu.Unlock()
	if err := lane.w.WriteFrame(t, stream, payload); err != nil {
		return err
	}
	if flush {
		return lane.w.Flush()
	}
	return nil
}

// punch makes pages holes.
func (l *lanes) punch(set *pages.Set) error {
	l.pagesPunched.Add(set.Count())
	return l.ranges(wire.TypePunch, set)
}

// ranges sends a set on lane 0, in as many frames as it takes.
func (l *lanes) ranges(t wire.Type, set *pages.Set) error {
	var list []wire.Range
	send := func() error {
		if len(list) == 0 {
			return nil
		}
		defer func() { list = list[:0] }()
		return l.frame(0, t, memoryStream, wire.AppendRanges(nil, list), false)
	}
	for start, end := range set.Ranges() {
		if list = append(list, wire.Range{Page: start, Count: end - start}); len(list) == wire.MaxFrameRanges {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// wholeList sends a set as a list, with its end.
func (l *lanes) wholeList(t wire.Type, set *pages.Set) error {
	ranges := uint64(0)
	for range set.Ranges() {
		ranges++
	}
	if err := l.ranges(t, set); err != nil {
		return err
	}
	return endFrames(l, 0, t, ranges*rangeBytes)
}

// barrier ends a round on all lanes, and sends all that is buffered.
func (l *lanes) barrier(number uint64) error {
	var errs []error
	for _, lane := range l.list {
		errs = append(errs, lane.barrier(number))
	}
	return errors.Join(errs...)
}

func (l *lane) barrier(number uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.sendBatch(); err != nil {
		return err
	}
	l.firsts.forget()
	if err := l.w.WriteFrame(wire.TypeBarrier, 0, wire.AppendBarrier(nil, number)); err != nil {
		return err
	}
	return l.w.Flush()
}

// wireBytes is what was sent so far.
func (l *lanes) wireBytes() uint64 {
	var n uint64
	for _, lane := range l.list {
		lane.mu.Lock()
		n += lane.w.Stats().WireBytes
		lane.mu.Unlock()
	}
	return n
}

// pipe is a stream of the kernel on its way out: it cuts it into frames, and
// counts and hashes it. The first frame is sent at once, so that the target begins
// to load.
type pipe struct {
	lanes *lanes
	on    int
	typ   wire.Type
	sum   summer
}

// Write implements io.Writer.
func (p *pipe) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		n := min(len(b), wire.MaxBatchPages*pages.PageSize)
		if err := p.lanes.frame(p.on, p.typ, memoryStream, b[:n], true); err != nil {
			return written, fmt.Errorf("send %v: %w", p.typ, err)
		}
		p.sum.add(b[:n])
		written, b = written+n, b[n:]
	}
	return written, nil
}

// end says that the stream is over.
func (p *pipe) end() error { return endFrames(p.lanes, p.on, p.typ, p.sum.bytes) }

func endFrames(l *lanes, on int, t wire.Type, bytes uint64) error {
	return l.frame(on, wire.TypeEnd, memoryStream, wire.AppendEnd(nil, wire.End{Type: t, Bytes: bytes}), true)
}
