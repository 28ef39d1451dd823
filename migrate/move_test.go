package migrate

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

const testPages = 3000

// testMemory is a memory file of testPages pages, all holes.
func testMemory(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(testPages * pages.PageSize); err != nil {
		t.Fatal(err)
	}
	return f
}

// road joins lanes to an inbox with its own memory file.
type road struct {
	t      *testing.T
	source *source
	inbox  *inbox
}

func newRoad(t *testing.T, laneCount int) *road {
	t.Helper()
	var ours []net.Conn
	in := newInbox(testMemory(t), laneCount, func(uint16, wire.Packet) {})
	in.resize([]wire.MemoryFile{{Stream: memoryStream, Pages: testPages}})
	for range laneCount {
		a, b := net.Pipe()
		ours = append(ours, a)
		go in.lane(b, wire.NewReader(b))
		t.Cleanup(func() { b.Close() })
	}
	l, err := newLanes(t.Context(), ours, wire.CodecZstd, wire.NewPace(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return &road{t: t, inbox: in, source: &source{
		lanes: l, memory: testMemory(t), scanner: pages.NewScanner(pages.ScanOptions{Workers: laneCount}),
	}}
}

// round sends what changed and waits until it is in its place.
func (r *road) round(number uint64, only *pages.Set) {
	r.t.Helper()
	if _, err := r.source.scan(r.t.Context(), only); err != nil {
		r.t.Fatal(err)
	}
	if err := r.source.lanes.barrier(number); err != nil {
		r.t.Fatal(err)
	}
	if err := r.inbox.await(r.t.Context(), number); err != nil {
		r.t.Fatal(err)
	}
}

func contentOf(t *testing.T, f *os.File) []byte {
	t.Helper()
	b := make([]byte, testPages*pages.PageSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// change does something random to a memory file, holes and zeros included.
func change(t *testing.T, rng *rand.Rand, f *os.File) {
	t.Helper()
	start := rng.Uint64N(testPages)
	count := min(1+rng.Uint64N(300), testPages-start)
	data := make([]byte, count*pages.PageSize)
	switch rng.IntN(4) {
	case 0:
		if err := punchHole(f, start, start+count); err != nil {
			t.Fatal(err)
		}
		return
	case 1: // zeros
	case 2:
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
	case 3: // few contents, many times
		for i := range count {
			data[i*pages.PageSize] = byte(1 + rng.IntN(5))
		}
	}
	if _, err := f.WriteAt(data, int64(start*pages.PageSize)); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryArrivesAsItIs(t *testing.T) {
	for _, laneCount := range []int{1, 3} {
		rng := rand.New(rand.NewPCG(uint64(laneCount), 7))
		r := newRoad(t, laneCount)
		for number := uint64(1); number <= 30; number++ {
			for range 1 + rng.IntN(3) {
				change(t, rng, r.source.memory)
			}
			r.round(number, nil)
			if !bytes.Equal(contentOf(t, r.source.memory), contentOf(t, r.inbox.memory)) {
				t.Fatalf("%d lanes, round %d: the memories differ", laneCount, number)
			}
			if r.source.ledger.digest() != r.inbox.ledger.digest() {
				t.Fatalf("%d lanes, round %d: the ledgers differ", laneCount, number)
			}
		}
		if r.source.lanes.pagesDuplicate.Load() == 0 {
			t.Errorf("%d lanes: no page was a duplicate", laneCount)
		}
		// The digest can tell: one bit on one side.
		r.inbox.ledger.place(3, append([]byte{1}, make([]byte, pages.PageSize-1)...))
		if r.source.ledger.digest() == r.inbox.ledger.digest() {
			t.Error("the digest does not notice another page")
		}
	}
}

// What is not committed becomes a hole on the target, and the totals agree.
func TestFinish(t *testing.T) {
	r := newRoad(t, 2)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		change(t, rng, r.source.memory)
	}
	r.round(1, nil)
	committed := &pages.Set{}
	committed.AddRange(0, 1000)
	committed.AddRange(2000, 2100)
	state := &pipe{lanes: r.source.lanes, on: 0, typ: wire.TypeState}
	meta := &pipe{lanes: r.source.lanes, on: 1, typ: wire.TypeMeta}
	for _, p := range []*pipe{state, meta} {
		if _, err := p.Write(bytes.Repeat([]byte{5}, 3<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := r.inbox.finish(); err == nil {
		t.Fatal("a handover before the ends was taken")
	}
	for _, err := range []error{
		state.end(), meta.end(), r.source.lanes.ranges(wire.TypeCommitted, committed),
		endFrames(r.source.lanes, 0, wire.TypeCommitted, 2*rangeBytes), r.source.lanes.barrier(2), r.inbox.await(t.Context(), 2),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.source.ledger.keep(committed)
	totals, _, err := r.inbox.finish()
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Totals{
		StateBytes: 3 << 20, StateDigest: state.sum.digest(), MetaBytes: 3 << 20, MetaDigest: meta.sum.digest(),
		CommittedPages: 1100, PagesDigest: r.source.ledger.digest(),
	}
	if totals != want {
		t.Errorf("totals are %+v, want %+v", totals, want)
	}
	outside := contentOf(t, r.inbox.memory)[1000*pages.PageSize : 2000*pages.PageSize]
	if !bytes.Equal(outside, make([]byte, len(outside))) {
		t.Error("a page that is not committed was kept")
	}
}

// A frame that makes no sense ends the connection, and nothing of it is applied.
func TestInboxRefuses(t *testing.T) {
	huge := wire.AppendRanges(nil, []wire.Range{{Page: 1 << 40, Count: 1 << 20}})
	for name, c := range map[string]struct {
		typ     wire.Type
		stream  uint16
		payload []byte
	}{
		"page beyond the file":  {wire.TypePages, 0, append([]byte{2, 0, 0, 0, 1, 0, 0, 0}, 0, 0, 0, 0, 0, 1, 0, 0)},
		"punch beyond the file": {wire.TypePunch, 0, huge},
		"unknown memory file":   {wire.TypeState, 1, []byte("state")},
		"end that lies":         {wire.TypeEnd, 0, wire.AppendEnd(nil, wire.End{Type: wire.TypeState, Bytes: 7})},
		"post-copy":             {wire.TypeMissing, 0, wire.AppendRanges(nil, []wire.Range{{Page: 0, Count: 1}})},
	} {
		r := newRoad(t, 2)
		if err := r.source.lanes.frame(0, c.typ, c.stream, c.payload, true); err != nil {
			t.Fatal(err)
		}
		if err := r.inbox.await(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "data connection") {
			t.Errorf("%s: %v", name, err)
		}
		if n := r.inbox.ledger.known().Count(); n != 0 {
			t.Errorf("%s: %d pages were placed", name, n)
		}
	}
}

// Cancelling works up to the commit, and never after it.
func TestCanceller(t *testing.T) {
	var before Canceller
	if err := before.Cancel(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := before.begin(t.Context())
	defer cancel(nil)
	if !errors.Is(context.Cause(ctx), ErrCancelled) {
		t.Error("a migration that was cancelled before it began goes on")
	}
	if err := before.commit(); !errors.Is(err, ErrCancelled) {
		t.Errorf("a cancelled migration commits: %v", err)
	}
	var after Canceller
	if err := after.commit(); err != nil {
		t.Fatal(err)
	}
	if err := after.Cancel(); !errors.Is(err, ErrTooLate) {
		t.Errorf("a committed migration is cancelled: %v", err)
	}
}
