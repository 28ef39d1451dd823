package dirty

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// punchTimeout bounds the wait for pgalloc to punch what was freed.
const punchTimeout = time.Minute

// migration is a Tracker on a real memory file, and the other side: a table of
// what it was sent.
type migration struct {
	t       testing.TB
	mf      *pgalloc.MemoryFile
	tracker *Tracker
	scanner *pages.Scanner
}

func newMemoryFile(t testing.TB) *pgalloc.MemoryFile {
	t.Helper()
	fd, err := memutil.CreateMemFD(t.Name(), 0)
	if err != nil {
		t.Fatal(err)
	}
	mf, err := pgalloc.NewMemoryFile(os.NewFile(uintptr(fd), t.Name()), pgalloc.MemoryFileOpts{DisableMemoryAccounting: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mf.Destroy)
	return mf
}

func newMigration(t testing.TB, o Options) *migration {
	t.Helper()
	d, err := OpenDescriptors()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	o.Descriptors = d
	m := &migration{t: t, mf: newMemoryFile(t), tracker: Wrap(newFakeHost(1), o), scanner: pages.NewScanner(pages.ScanOptions{})}
	m.tracker.SetMemoryFile(m.mf)
	t.Cleanup(func() { // before the descriptors are closed
		if err := m.tracker.Disarm(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *migration) allocate(length uint64) memmap.FileRange {
	m.t.Helper()
	fr, err := m.mf.Allocate(length, pgalloc.AllocOpts{})
	if err != nil {
		m.t.Fatal(err)
	}
	return fr
}

// memory is the sentry's own mapping of a range.
func (m *migration) memory(fr memmap.FileRange) []byte {
	m.t.Helper()
	blocks, err := m.mf.MapInternal(fr, hostarch.ReadWrite)
	if err != nil || blocks.NumBlocks() != 1 {
		m.t.Fatalf("map %v: %d blocks, %v", fr, blocks.NumBlocks(), err)
	}
	return blocks.Head().ToSlice()
}

func (m *migration) arm() {
	m.t.Helper()
	if _, err := m.tracker.Arm(); err != nil {
		m.t.Fatal(err)
	}
	m.send(nil)
}

// send sends the pages of the set, or all.
func (m *migration) send(set *Set) {
	m.t.Helper()
	if _, err := m.scanner.Round(context.Background(), m.mf.FD(), m.mf.TotalSize(), set, nil); err != nil {
		m.t.Fatal(err)
	}
}

// collect collects, sends, and returns what was dirty.
func (m *migration) collect() (*Set, Stats) {
	m.t.Helper()
	set, stats, err := m.tracker.Collect()
	if err != nil {
		m.t.Fatal(err)
	}
	m.send(set)
	return set, stats
}

// missed returns the pages that an audit finds.
func (m *migration) missed() *Set {
	m.t.Helper()
	result, err := pages.Audit(m.mf.FD(), m.mf.TotalSize(), &m.scanner.Table)
	if err != nil {
		m.t.Fatal(err)
	}
	return result.Missed
}

func (m *migration) committed() uint64 {
	m.t.Helper()
	set, err := pages.Committed(m.mf.FD(), m.mf.TotalSize())
	if err != nil {
		m.t.Fatal(err)
	}
	return set.Count()
}

// fillPages writes to each page of memory.
func fillPages(memory []byte, value byte) {
	for i := 0; i < len(memory); i += pageSize {
		memory[i+int(value)] = value
	}
}

// writeAsSentry writes to the page n of the range in the ways that a sentry
// does: itself, and by a system call into its mapping.
func (m *migration) writeAsSentry(fr memmap.FileRange, n int, byHost bool) {
	m.t.Helper()
	start := fr.Start + uint64(n)*pageSize
	page := m.memory(memmap.FileRange{Start: start, End: start + pageSize})
	if !byHost {
		page[17]++
		return
	}
	file, err := os.CreateTemp(m.t.TempDir(), "")
	if err != nil {
		m.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(bytes.Repeat([]byte{0xee}, pageSize)); err != nil {
		m.t.Fatal(err)
	}
	if _, err := file.ReadAt(page, 0); err != nil {
		m.t.Fatal(err)
	}
}

func TestSentryWrites(t *testing.T) {
	m := newMigration(t, Options{})
	fr := m.allocate(64 << 20)
	first := fr.Start / pageSize
	fillPages(m.memory(fr), 1)
	m.arm()
	if n := m.missed().Count(); n != 0 {
		t.Fatalf("%d pages missed after arming", n)
	}
	m.collect() // what else was touched
	if set, _ := m.collect(); !set.Empty() {
		t.Fatalf("%d pages are dirty though nothing was written", set.Count())
	}
	for round := range 3 {
		m.writeAsSentry(fr, 5+round, false)
		m.writeAsSentry(fr, 15+round, true)
		m.writeAsSentry(fr, 5, false) // in each round
		set, stats := m.collect()
		for _, n := range []uint64{5, 5 + uint64(round), 15 + uint64(round)} {
			if !set.Has(first + n) {
				t.Errorf("round %d: page %d is not dirty", round, n)
			}
		}
		if stats.SentryPages != set.Count() || set.Count() > 3 {
			t.Errorf("round %d: %d pages are dirty, %d by the sentry", round, set.Count(), stats.SentryPages)
		}
		if n := m.missed().Count(); n != 0 {
			t.Errorf("round %d: %d pages missed", round, n)
		}
	}
}

// TestMemoryFileGrows writes to a chunk that did not exist when it was armed.
func TestMemoryFileGrows(t *testing.T) {
	m := newMigration(t, Options{})
	fillPages(m.memory(m.allocate(1<<20)), 1)
	m.arm()
	big := m.allocate(chunkBytes) // cannot fit beside the other
	m.writeAsSentry(big, 1000, false)
	m.writeAsSentry(big, 2000, true)
	m.collect()
	if n := m.missed().Count(); n != 0 {
		t.Fatalf("%d pages of the new chunk missed", n)
	}
	m.writeAsSentry(big, 1000, false)
	m.writeAsSentry(big, 3000, true)
	set, _ := m.collect()
	if n := m.missed().Count(); n != 0 || set.Count() > 2 {
		t.Errorf("%d pages missed, %d dirty", n, set.Count())
	}
}

// reuse frees the range, takes it again once pgalloc has punched it, and reads it
// through another mapping, as an application would: the pages come back as
// committed zeros, and nobody writes to them.
func (m *migration) reuse(fr memmap.FileRange) {
	m.t.Helper()
	m.mf.DecRef(fr)
	for deadline := time.Now().Add(punchTimeout); ; time.Sleep(time.Millisecond) {
		again := m.allocate(fr.Length())
		if again == fr {
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatal("pgalloc does not give back what was freed")
		}
		m.mf.DecRef(again)
	}
	memory, err := unix.Mmap(m.mf.FD(), int64(fr.Start), int(fr.Length()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		m.t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if err := unix.Madvise(memory, unix.MADV_POPULATE_READ); err != nil {
		m.t.Fatal(err)
	}
}

func TestReusedFrames(t *testing.T) {
	m := newMigration(t, Options{})
	fr := m.allocate(1 << 20)
	fillPages(m.memory(fr), 1)
	kept := m.allocate(1 << 20)
	fillPages(m.memory(kept), 2)
	m.arm()
	m.collect()
	for range 2 {
		m.reuse(fr)
		set, stats := m.collect()
		if n := m.missed().Count(); n != 0 {
			t.Fatalf("%d pages missed", n)
		}
		if stats.VanishedPages != 256 || set.Has(kept.Start/pageSize) {
			t.Errorf("%d pages vanished, kept page dirty: %v", stats.VanishedPages, set.Has(kept.Start/pageSize))
		}
		fillPages(m.memory(fr), 3) // so that they matter once more
		m.collect()
	}
}

// TestNegativeControls shows, for each part of the tracking that needs a sentry,
// that an audit fails without it.
func TestNegativeControls(t *testing.T) {
	cases := []struct {
		name    string
		disable Rule
		act     func(m *migration, fr memmap.FileRange)
	}{
		{"sentry writes", RuleSentryWrites, func(m *migration, fr memmap.FileRange) { m.writeAsSentry(fr, 3, false) }},
		{"host writes", RuleSentryWrites, func(m *migration, fr memmap.FileRange) { m.writeAsSentry(fr, 3, true) }},
		{"reused frames", RuleReusedFrames, func(m *migration, fr memmap.FileRange) { m.reuse(fr) }},
	}
	for _, c := range cases {
		for _, disable := range []Rule{0, c.disable} {
			m := newMigration(t, Options{Disable: disable})
			fr := m.allocate(1 << 20)
			fillPages(m.memory(fr), 1)
			m.arm()
			m.collect()
			c.act(m, fr)
			m.collect()
			if missed := m.missed().Count(); (missed > 0) != (disable != 0) {
				t.Errorf("%s, disabled %d: %d pages missed", c.name, disable, missed)
			}
		}
	}
}

// TestWatchingCommitsNothing checks that holes stay holes.
func TestWatchingCommitsNothing(t *testing.T) {
	m := newMigration(t, Options{})
	fr := m.allocate(64 << 20)
	memory := m.memory(fr)
	for i := 0; i < len(memory); i += 3 * pageSize {
		memory[i] = 1
	}
	before := m.committed()
	m.arm()
	m.tracker.markSet(func() *Set { s := &Set{}; s.AddRange(fr.Start/pageSize, fr.End/pageSize); return s }())
	m.collect()
	if after := m.committed(); after != before {
		t.Errorf("%d pages were committed, now %d", before, after)
	}
	if n := m.tracker.witness.seen.Count(); n != before {
		t.Errorf("%d pages are watched, %d are committed", n, before)
	}
}

// TestArmAgain arms, disarms and arms again, and leaves nothing behind.
func TestArmAgain(t *testing.T) {
	m := newMigration(t, Options{})
	fr := m.allocate(1 << 20)
	before := mappings(t)
	for i := range 3 {
		m.writeAsSentry(fr, i, false)
		m.arm()
		m.writeAsSentry(fr, i+1, false)
		set, _, err := m.tracker.CollectLast()
		if err != nil {
			t.Fatal(err)
		}
		m.send(set)
		if n := m.missed().Count(); n != 0 {
			t.Errorf("%d pages missed", n)
		}
		if err := m.tracker.Disarm(); err != nil {
			t.Fatal(err)
		}
	}
	if after := mappings(t); after != before {
		t.Errorf("%d mappings of the memory file, %d before", after, before)
	}
}

// mappings counts this process's mappings of the test's memory file.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(maps, []byte("memfd:"+t.Name()))
}

func TestArmWithoutDescriptors(t *testing.T) {
	tr := Wrap(newFakeHost(1), Options{})
	tr.SetMemoryFile(newMemoryFile(t))
	if _, err := tr.Arm(); err == nil {
		t.Fatal("armed")
	}
	if tr.armed.Load() {
		t.Error("it is armed after an error")
	}
}
