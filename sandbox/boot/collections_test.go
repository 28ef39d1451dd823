package boot

import (
	"runtime/debug"
	"testing"
)

// collecting says whether this process collects garbage.
func collecting() bool {
	percent := debug.SetGCPercent(gcPercent)
	debug.SetGCPercent(percent)
	return percent > 0
}

// TestHoldCollections ends overlapping holds in another order than they began.
func TestHoldCollections(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	garbage = collections{}
	t.Cleanup(func() { garbage = collections{held: 1} })
	first, second := HoldCollections(), HoldCollections()
	if collecting() {
		t.Error("two holds, and garbage is collected")
	}
	first()
	if collecting() {
		t.Error("one hold is left, and garbage is collected")
	}
	second()
	if !collecting() {
		t.Error("no hold is left, and no garbage is collected")
	}
}
