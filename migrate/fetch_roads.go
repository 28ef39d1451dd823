package migrate

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// roads are the data connections of a fetch. What the kernel waits for is asked for on the
// first, and answered there; all else goes over the others, if there are any.
type roads struct {
	conns   []net.Conn
	writers []*wire.Writer
	next    int
	listed  bool // the list of what has come was sent
}

// order is a frame to the source.
type order struct {
	road   int
	ranges []wire.Range
	list   bool // of what has come, to be compared; else a request
}

// attach begins to ask for pages on new connections. The caller gives frames that
// come to frame, and calls lost when a connection ends.
func (f *fetch) attach(conns []net.Conn) error {
	r := &roads{conns: conns}
	for _, conn := range conns {
		w, err := wire.NewWriter(conn, wire.WriterOptions{})
		if err != nil {
			return err
		}
		r.writers = append(r.writers, w)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.detach()
	f.hungUp = f.hungUp || f.isOver() // it has failed before: who serves it is to see that nothing comes
	f.roads = r
	go f.ask(r)
	return nil
}

// lost says that a connection has ended.
func (f *fetch) lost(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.roads != nil && slices.Contains(f.roads.conns, conn) {
		f.detach()
	}
}

// hangUp gives the connections up once, for a fetch that has failed.
func (f *fetch) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.hungUp {
		f.hungUp = true
		f.detach()
	}
}

// detach gives the connections up. What was asked for on them is to be asked for
// again. The caller holds mu.
func (f *fetch) detach() {
	if f.roads == nil {
		return
	}
	for _, conn := range f.roads.conns {
		conn.Close()
	}
	f.roads = nil
	f.plan.restart()
	f.plan.urge(rangesOf(f.needed))
	f.moved.Broadcast()
}

// ask sends orders until the roads are given up, or the fetch is over.
func (f *fetch) ask(r *roads) {
	for {
		o, ok := f.nextOrder(r)
		if !ok {
			return
		}
		if err := r.send(o); err != nil {
			f.lost(r.conns[0])
			return
		}
	}
}

// nextOrder waits for something to ask for.
func (f *fetch) nextOrder(r *roads) (order, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if f.roads != r || f.isOver() {
			return order{}, false
		}
		if o, ok := f.find(r); ok {
			return o, true
		}
		if rest := f.plan.rest(time.Now()); rest > 0 {
			timer := time.AfterFunc(rest, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.moved.Broadcast()
			})
			f.moved.Wait()
			timer.Stop()
			continue
		}
		f.moved.Wait()
	}
}

// find returns what to ask for now. The caller holds mu.
func (f *fetch) find(r *roads) (order, bool) {
	if f.loaded {
		if r.listed {
			return order{}, false
		}
		r.listed = true
		return order{ranges: rangesOf(f.came), list: true}, true
	}
	if urgent := f.plan.nextUrgent(f.missing, time.Now()); len(urgent) > 0 {
		return order{ranges: urgent}, true
	}
	ahead, ok := f.plan.nextAhead(f.missing, time.Now())
	if !ok {
		return order{}, false
	}
	return order{road: r.ahead(), ranges: []wire.Range{ahead}}, true
}

func (f *fetch) isOver() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// ahead returns the road for what nobody waits for yet.
func (r *roads) ahead() int {
	if len(r.conns) == 1 {
		return 0
	}
	r.next = r.next%(len(r.conns)-1) + 1
	return r.next
}

func (r *roads) send(o order) error {
	w := r.writers[o.road]
	typ := wire.TypeRequest
	if o.list {
		typ = wire.TypeMissing
	}
	for piece := range slices.Chunk(o.ranges, wire.MaxFrameRanges) {
		if err := w.WriteFrame(typ, memoryStream, wire.AppendRanges(nil, piece)); err != nil {
			return err
		}
	}
	if o.list {
		end := wire.End{Type: wire.TypeMissing, Bytes: uint64(len(o.ranges)) * rangeBytes}
		if err := w.WriteFrame(wire.TypeEnd, memoryStream, wire.AppendEnd(nil, end)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// frame takes a frame that came on a road.
func (f *fetch) frame(fr wire.Frame) error {
	if fr.Stream != memoryStream {
		return fmt.Errorf("it names memory file %d, there is only %d", fr.Stream, memoryStream)
	}
	switch fr.Type {
	case wire.TypePages:
		records, err := wire.ParsePages(nil, fr.Payload, f.limitPages)
		if err != nil {
			return err
		}
		return f.place(records)
	case wire.TypeSum:
		sum, err := wire.ParseSum(fr.Payload)
		if err == nil {
			err = f.compare(sum)
		}
		return err
	}
	return errors.New("it is not part of fetching missing pages")
}

// lane handles a connection that serves the fetch alone, until it ends.
func (f *fetch) lane(conn net.Conn) error {
	defer f.lost(conn)
	r := wire.NewReader(conn)
	for {
		fr, err := r.Next()
		if err != nil {
			return err
		}
		if err := f.frame(fr); err != nil {
			return fmt.Errorf("%v frame: %w", fr.Type, err)
		}
	}
}

// rangesOf lists a set.
func rangesOf(set *pages.Set) []wire.Range {
	var list []wire.Range
	for start, end := range set.Ranges() {
		list = append(list, wire.Range{Page: start, Count: end - start})
	}
	return list
}
