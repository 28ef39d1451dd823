package dirty

import (
	"math/rand/v2"
	"testing"
)

// checkTable compares a table with a map from page of the address to the page
// of the file and the flags, and checks that it is sorted and merged.
func checkTable(t *testing.T, step int, table *table, model map[uint64]entry) {
	t.Helper()
	found := 0
	var last *entry
	table.walk(wholeSpace.start, wholeSpace.end, func(e entry) {
		if e.start >= e.end {
			t.Fatalf("step %d: empty entry %+v", step, e)
		}
		if last != nil && (last.end > e.start || last.adjoins(e) && last.protected == e.protected) {
			t.Fatalf("step %d: %+v before %+v", step, *last, e)
		}
		for a := e.start; a < e.end; a += pageSize {
			m, ok := model[a/pageSize]
			if got := e.clip(a, a+pageSize); !ok || got.offset != m.offset || got.perms != m.perms || got.protected != m.protected {
				t.Fatalf("step %d: address page %d is %+v, want %+v (%v)", step, a/pageSize, got, m, ok)
			}
			found++
		}
		last = &e
	})
	if found != len(model) {
		t.Fatalf("step %d: %d pages are mapped, want %d", step, found, len(model))
	}
	for _, leaf := range table.leaves {
		if len(leaf) == 0 || len(leaf) > maxLeaf {
			t.Fatalf("step %d: leaf of %d entries", step, len(leaf))
		}
	}
}

func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 7))
		limit := []uint64{50, 500, 5000, 5000}[seed] // the last ones need many leaves
		longest := []uint64{20, 20, 4, 600}[seed]
		var table table
		model := map[uint64]entry{}
		for step := range 4000 {
			start := rng.Uint64N(limit)
			end := start + 1 + rng.Uint64N(longest)
			removed := map[uint64]bool{}
			next := table.carve(start*pageSize, end*pageSize, func(e entry) {
				for a := e.start; a < e.end; a += pageSize {
					if got := e.clip(a, a+pageSize); model[a/pageSize].offset != got.offset {
						t.Fatalf("step %d: removed %+v", step, got)
					}
					removed[a/pageSize] = true
				}
			})
			for p := start; p < end; p++ {
				if _, ok := model[p]; ok != removed[p] {
					t.Fatalf("step %d: page %d mapped %v, removed %v", step, p, ok, removed[p])
				}
				delete(model, p)
			}
			if rng.IntN(3) > 0 {
				e := entry{start: start * pageSize, end: end * pageSize, perms: permRead, protected: rng.IntN(2) == 0}
				e.offset = e.start + rng.Uint64N(2)*pageSize*limit // such that some merge
				table.insert(e, next)
				for p := start; p < end; p++ {
					model[p] = e.clip(p*pageSize, (p+1)*pageSize)
				}
			}
			if step%20 == 0 {
				checkTable(t, step, &table, model)
			}
			p := rng.Uint64N(limit)
			if e, ok := table.find(p * pageSize); ok != (model[p].end != 0) || ok && e.clip(p*pageSize, (p+1)*pageSize).offset != model[p].offset {
				t.Fatalf("step %d: find page %d: %+v %v", step, p, e, ok)
			}
		}
		checkTable(t, 4000, &table, model)
	}
}

// TestClusterBytes is the table of how clusters grow with load.
func TestClusterBytes(t *testing.T) {
	defaults := Options{}.withDefaults()
	fixed := Options{MinClusterBytes: pageSize, MaxClusterBytes: pageSize}.withDefaults()
	for _, c := range []struct {
		options Options
		faults  uint64
		want    uint64
	}{
		{defaults, 0, 64 << 10}, {defaults, 511, 64 << 10}, {defaults, 512, 128 << 10}, {defaults, 1024, 256 << 10},
		{defaults, 1536, 512 << 10}, {defaults, 2047, 512 << 10}, {defaults, 2048, 1 << 20}, {defaults, 1 << 40, 1 << 20},
		{fixed, 0, pageSize}, {fixed, 1 << 20, pageSize},
		{Options{MinClusterBytes: 2 << 20}.withDefaults(), 9999, 2 << 20},
	} {
		if got := c.options.clusterBytes(c.faults); got != c.want {
			t.Errorf("after %d faults from %d bytes: %d, want %d", c.faults, c.options.MinClusterBytes, got, c.want)
		}
	}
}
