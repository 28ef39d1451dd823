package dirty

import (
	"testing"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// nullSpace maps in no time, so that a benchmark sees the Tracker alone. On a
// real host each call takes 3 to 5 µs.
type nullSpace struct{ platform.AddressSpace }

func (nullSpace) MapFile(hostarch.Addr, memmap.File, memmap.FileRange, hostarch.AccessType, bool) error {
	return nil
}
func (nullSpace) Unmap(hostarch.Addr, uint64) {}

// benchmarkChurn maps and unmaps a page in an address space of so many
// mappings.
func benchmarkChurn(b *testing.B, mappings uint64, arm bool) {
	host := newFakeHost(1)
	tr := host.tracker(Options{})
	a := &addressSpace{AddressSpace: nullSpace{}, tracker: tr}
	tr.spaces[a] = struct{}{}
	for i := range mappings { // with gaps, so that none merge
		a.MapFile(hostarch.Addr(i*4*pageSize), host.main, memmap.FileRange{Start: i * 4 * pageSize, End: (i*4 + 2) * pageSize}, hostarch.ReadWrite, false)
	}
	if arm {
		if _, err := tr.Arm(); err != nil {
			b.Fatal(err)
		}
	}
	i := uint64(0)
	for b.Loop() {
		at := (i*7919%mappings*4 + 3) * pageSize
		a.MapFile(hostarch.Addr(at), host.main, memmap.FileRange{Start: at + pageSize, End: at + 2*pageSize}, hostarch.ReadWrite, false)
		a.Unmap(hostarch.Addr(at), pageSize)
		i++
	}
}

func BenchmarkMapAndUnmap(b *testing.B) {
	b.Run("disarmed/mappings=30", func(b *testing.B) { benchmarkChurn(b, 30, false) })
	b.Run("disarmed/mappings=10000", func(b *testing.B) { benchmarkChurn(b, 10000, false) })
	b.Run("armed/mappings=10000", func(b *testing.B) { benchmarkChurn(b, 10000, true) })
}

// BenchmarkRelease is the end of a process of 100 mappings, after its begin.
func BenchmarkRelease(b *testing.B) {
	host := newFakeHost(1)
	tr := host.tracker(Options{})
	for b.Loop() {
		space, err := tr.NewAddressSpace()
		if err != nil {
			b.Fatal(err)
		}
		a := space.(*addressSpace)
		a.AddressSpace = &nullSpace{AddressSpace: a.AddressSpace}
		for i := range uint64(100) {
			a.MapFile(hostarch.Addr(i*4*pageSize), host.main, memmap.FileRange{Start: i * pageSize, End: (i + 1) * pageSize}, hostarch.ReadWrite, false)
		}
		a.Release()
	}
}

func (s nullSpace) Release() {}

// newFullMigration has 2 GiB of committed memory. It returns the two halves as
// the sentry maps them.
func newFullMigration(b *testing.B) (*migration, [2][]byte) {
	m := newMigration(b, Options{})
	var halves [2][]byte
	for i := range halves {
		halves[i] = m.memory(m.allocate(1 << 30))
		fillPages(halves[i], 1)
	}
	return m, halves
}

// benchmarkCollect collects from 2 GiB, of which the sentry wrote every
// thousandth page since the last time.
func benchmarkCollect(b *testing.B, collect func(*Tracker) (*Set, Stats, error)) {
	m, halves := newFullMigration(b)
	if _, err := m.tracker.Arm(); err != nil {
		b.Fatal(err)
	}
	var stats Stats
	for b.Loop() {
		b.StopTimer()
		for _, half := range halves {
			for i := 0; i < len(half); i += 1000 * pageSize {
				half[i]++
			}
		}
		m.tracker.spent = false
		b.StartTimer()
		var err error
		if _, stats, err = collect(m.tracker); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(stats.SentryTime.Microseconds()), "sentry-µs")
	b.ReportMetric(float64(stats.WitnessTime.Microseconds()), "witness-µs")
	b.ReportMetric(float64(stats.Pages), "pages")
}

func BenchmarkCollect2GiB(b *testing.B) {
	b.Run("round", func(b *testing.B) { benchmarkCollect(b, (*Tracker).Collect) })
	b.Run("last", func(b *testing.B) { benchmarkCollect(b, (*Tracker).CollectLast) })
}

// BenchmarkArm2GiB arms and disarms 2 GiB of committed memory.
func BenchmarkArm2GiB(b *testing.B) {
	m, _ := newFullMigration(b)
	for b.Loop() {
		if _, err := m.tracker.Arm(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := m.tracker.Disarm(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
