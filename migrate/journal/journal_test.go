package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

func states(h *History) (out []State) {
	for _, r := range h.Records() {
		out = append(out, r.State)
	}
	return out
}

func mustAppend(t *testing.T, j *Journal, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournalKeepsWhatItIsTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journals")
	want := Record{
		Time: time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC), Role: Source, State: Begun, Attempt: attempt.New(), Epoch: 1,
		Peer: "host-b", PeerKey: "SHA256:abc", Address: "[2001:db8::1]:7777", Note: "a \"note\"\nof <two> lines \xff",
	}
	j, err := Open(dir, "redis")
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, want)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if err := j.Append(rec(Source, Aborted, 1, 1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	again, err := Open(dir, "redis")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	want.Time = want.Time.Round(time.Microsecond)
	want.Note = "a \"note\"?of <two> lines ?"
	if got := again.History().Records(); len(got) != 1 || got[0] != want {
		t.Fatalf("got %+v", got)
	}
	if list, err := List(dir); err != nil || !slices.Equal(list, []string{"redis"}) {
		t.Fatal(list, err)
	}
	if h, err := Read(dir, "redis"); err != nil || len(h.Records()) != 1 {
		t.Fatal(err)
	}
	if h, err := Read(dir, "other"); err != nil || len(h.Records()) != 0 {
		t.Fatal(err)
	}
}

func TestAnyRecordFits(t *testing.T) {
	j, err := open(new(fakeDisk), "j", "s")
	if err != nil {
		t.Fatal(err)
	}
	for _, filler := range []string{"\"", "\\", "€", "\x00", "<", "𝄞"} {
		long := strings.Repeat(filler, 2000)
		id := attempt.New()
		r := Record{Time: time.Now(), Role: Target, State: Refused, Attempt: id, Epoch: 1<<64 - 1, Peer: long, PeerKey: long, Address: long, Note: long}
		if err := j.Append(r); err != nil {
			t.Errorf("%q: %v", filler, err)
		}
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "a"); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v", err)
	}
	other, err := Open(dir, "b")
	if err != nil {
		t.Fatalf("another sandbox: %v", err)
	}
	other.Close()
	j.Close()
	j, err = Open(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	for _, name := range []string{"", ".", "../x", "a/b", "a b", "a\n", strings.Repeat("x", 201)} {
		if _, err := Open(dir, name); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestIllegalRecordWritesNothing(t *testing.T) {
	d := new(fakeDisk)
	j, err := open(d, "j", "s")
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, rec(Source, Begun, 1, 1))
	before := bytes.Clone(d.cache)
	if err := j.Append(rec(Source, Departed, 1, 1)); !errors.Is(err, ErrIllegal) {
		t.Fatal(err)
	}
	if !bytes.Equal(before, d.cache) {
		t.Fatal("it was written")
	}
	mustAppend(t, j, rec(Source, Aborted, 1, 1))
}

// journalOf returns the file of a few records.
func journalOf(t testing.TB, records ...Record) []byte {
	t.Helper()
	d := new(fakeDisk)
	j, err := open(d, "j", "s")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	return d.cache
}

func TestTornTailIsDropped(t *testing.T) {
	whole := journalOf(t, rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1))
	check := func(name string, b []byte, want int) {
		t.Helper()
		j, err := open(&fakeDisk{cache: b, platter: b}, "j", "s")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := j.History().Records(); len(got) != want {
			t.Fatalf("%s: %d records, want %d", name, len(got), want)
		}
		if want == 1 {
			mustAppend(t, j, rec(Source, Aborted, 1, 1))
		}
	}
	for n := 2 * blockBytes; n < len(whole); n++ {
		check(fmt.Sprintf("cut after %d bytes", n), whole[:n], 1)
	}
	for _, at := range []int{0, sectorBytes} {
		b := bytes.Clone(whole)
		clear(b[2*blockBytes+at : 2*blockBytes+at+sectorBytes])
		check("a sector that was never written", b, 1)
	}
	check("whole", whole, 2)
}

func TestDamageIsRefused(t *testing.T) {
	whole := journalOf(t, rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1))
	refused := func(b []byte) bool {
		_, err := open(&fakeDisk{cache: b, platter: b}, "j", "s")
		var where *CorruptError
		return errors.Is(err, ErrCorrupt) && errors.As(err, &where)
	}
	for bit := range len(whole) * 8 {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if !refused(b) {
			t.Fatalf("bit %d of byte %d flipped, and nobody noticed", bit%8, bit/8)
		}
	}
	block := func(n int) []byte { return whole[n*blockBytes : (n+1)*blockBytes] }
	for name, b := range map[string][]byte{
		"empty":                       {},
		"half a header":               whole[:500],
		"a record taken out":          slices.Concat(block(0), block(2)),
		"a record twice":              slices.Concat(block(0), block(1), block(1)),
		"records exchanged":           slices.Concat(block(0), block(2), block(1)),
		"another sandbox's header":    slices.Concat(encodeHeader("other"), block(1)),
		"zeros in the middle":         slices.Concat(block(0), make([]byte, blockBytes), block(2)),
		"larger than any journal":     make([]byte, maxFileBytes+1),
		"sealed, but no record":       slices.Concat(block(0), seal([]byte("{}"), sumOf(block(0), 0))),
		"sealed, with an unknown key": slices.Concat(block(0), seal([]byte(`{"x":1}`), sumOf(block(0), 0))),
		"sealed, but illegal":         slices.Concat(block(0), illegal(t, sumOf(block(0), 0))),
	} {
		if !refused(b) {
			t.Errorf("%s: nobody noticed", name)
		}
	}
}

func sumOf(block []byte, previous uint32) uint32 {
	_, sum, _ := unseal(block, previous)
	return sum
}

func illegal(t *testing.T, previous uint32) []byte {
	t.Helper()
	b, err := rec(Source, Departed, 1, 1).encode(previous)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDamageNamesItsPlaceOnTheRealDisk(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, rec(Source, Begun, 1, 1), rec(Source, Aborted, 1, 1))
	j.Close()
	path := filepath.Join(dir, "s.journal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[blockBytes+100] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir, "s")
	var where *CorruptError
	if !errors.As(err, &where) || where.Block != 1 || where.Path != path {
		t.Fatal(err)
	}
	// The lock is free again, and nothing was changed.
	if _, err := Open(dir, "s"); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if now, _ := os.ReadFile(path); !bytes.Equal(now, b) {
		t.Fatal("a damaged journal was changed")
	}
}

// TestWhatAppendReturnedHolds goes through every way in which three appends and the write of a reopening can go, with
// the process or the host dying at the end, and checks that a record that was acknowledged is there, and that one
// that was not is the last, or gone.
func TestWhatAppendReturnedHolds(t *testing.T) {
	script := []Record{rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1), rec(Source, Departed, 1, 1)}
	n := int(fates)
	for code := range n * n * n * n * 2 {
		d := new(fakeDisk)
		j, err := open(d, "j", "s")
		if err != nil {
			t.Fatal(err)
		}
		var plan []fate
		for i, rest := 0, code/2; i < 4; i, rest = i+1, rest/n {
			plan = append(plan, fate(rest%n))
		}
		d.fates = slices.Clone(plan)
		acknowledged, attempted := 0, 0
		for _, r := range script {
			// A failed write is tried again once, as a process does that may not act on it.
			for range 2 {
				attempted = max(attempted, acknowledged+1)
				if err = j.Append(r); err == nil {
					acknowledged++
					break
				}
				if !errors.Is(err, ErrUncertain) {
					t.Fatalf("%v: %v", plan, err)
				}
			}
			if err != nil {
				break
			}
		}
		if code%2 == 1 {
			d.crash()
		}
		after, err := open(d, "j", "s")
		for errors.Is(err, ErrUncertain) { // until the fates are used up
			after, err = open(d, "j", "s")
		}
		if err != nil {
			t.Fatalf("%v: %v", plan, err)
		}
		if got := len(after.History().Records()); got < acknowledged || got > attempted {
			t.Fatalf("%v, host died %v: %d records, %d acknowledged, %d tried", plan, code%2 == 1, got, acknowledged, attempted)
		}
		// What Open returned survives the host from now on.
		d.fates = nil
		read := states(after.History())
		d.crash()
		if again, err := open(d, "j", "s"); err != nil || !slices.Equal(states(again.History()), read) {
			t.Fatalf("%v: what was read was not durable: %v", plan, err)
		}
	}
}

func TestAbortReplacesTheRecordThatFailed(t *testing.T) {
	for f := nothing; f < fates; f++ {
		d := new(fakeDisk)
		j, err := open(d, "j", "s")
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, j, rec(Source, Begun, 1, 1))
		d.fates = []fate{f}
		if err := j.Append(rec(Source, HandedOver, 1, 1)); !errors.Is(err, ErrUncertain) {
			t.Fatal(err)
		}
		if r, _ := j.History().Current(); r.State != Begun {
			t.Fatalf("an uncertain record counts: %s", r.State)
		}
		mustAppend(t, j, rec(Source, Aborted, 1, 1))
		d.crash()
		after, err := open(d, "j", "s")
		if err != nil || !slices.Equal(states(after.History()), []State{Begun, Aborted}) {
			t.Fatalf("fate %d: %v, %v", f, states(after.History()), err)
		}
	}
}

func TestFullJournal(t *testing.T) {
	h := new(History)
	h.add(rec(Source, Begun, 1, 1))
	h.records = make([]Record, MaxRecords-1)
	if err := h.check(rec(Target, Refused, 2, 2)); !errors.Is(err, ErrFull) {
		t.Fatalf("an attempt begins that cannot end: %v", err)
	}
	if err := h.check(rec(Source, Aborted, 1, 1)); err != nil {
		t.Fatalf("an attempt that began cannot end: %v", err)
	}
	h.records = make([]Record, MaxRecords)
	if err := h.check(rec(Source, Aborted, 1, 1)); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	whole := journalOf(f, rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1))
	f.Add(whole)
	f.Add(whole[:1500])
	f.Add(slices.Concat(whole[:blockBytes], make([]byte, blockBytes)))
	f.Fuzz(func(t *testing.T, b []byte) {
		content, err := parse("j", "s", b)
		if err != nil {
			return
		}
		blocks := 1 + len(content.records)
		if good := blocks * blockBytes; len(b) < good || !content.torn && len(b) != good {
			t.Fatalf("%d records from %d bytes", len(content.records), len(b))
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	b, err := rec(Target, Owner, 1, 1).encode(0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[checksumChars+1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		// Whatever was read can be written again: Open does.
		if _, err := r.clean().encode(0); err != nil && !r.Attempt.IsZero() && len(r.Role)+len(r.State) < 100 && r.Time.Year() < 10000 {
			t.Fatalf("%q cannot be written again: %v", b, err)
		}
	})
}
