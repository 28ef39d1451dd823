package journal

import (
	"fmt"
	"slices"
	"testing"
)

// fencing returns what is wrong with a world, or "".
func (m *model) fencing(w world) string {
	copies, anyRan := 0, false
	if w.original == running {
		copies++
	}
	for _, at := range w.targets {
		if at.copy == 2 {
			copies++
		}
	}
	if copies > 1 {
		return "two running copies"
	}
	newest := State(None)
	for k := range uint8(attempts) {
		there := w.targets[m.goesTo[k]].store.platter[k].state()
		here := w.store.platter[k].state()
		if here != None {
			newest = here
		}
		anyRan = anyRan || w.ran[k]
		switch {
		case w.ran[k] && there != Started && there != Complete:
			return "a copy ran that the target's journal knows nothing of"
		case w.ran[k] && here != HandedOver && here != Departed:
			return "a copy ran that the source's journal did not hand over"
		case here == Departed && there != Complete:
			return "the source's journal gave up a sandbox that the target's journal does not have"
		}
	}
	switch {
	case w.original == running && anyRan:
		return "the source runs on from a state that is older than one that ran elsewhere"
	case w.original == destroyed && newest != Departed:
		return "destroyed without record"
	case (w.original == pausedArmed || w.original == pausedDisarmed) && newest == None:
		return "paused without record"
	case w.ran[0] && w.ran[1]:
		return "two attempts ran"
	}
	return ""
}

// settled says whether a world needs nobody's help: one copy runs; or what ended it is a loss that no protocol
// prevents, and the journals say where the state was; or it is the operator's to decide.
func (m *model) settled(w world) bool {
	if w.original == running || w.original == dead {
		return true
	}
	for k := range uint8(attempts) {
		at := w.targets[m.goesTo[k]]
		switch at.store.platter[k].state() {
		case Owner, Started, Complete:
			return true
		}
	}
	return false
}

// walk is a finished search.
type walk struct {
	worlds []world
	wrong  string   // the first thing that was wrong
	trail  []string // the steps that led there
}

// explore walks breadth first until nothing is new, or something is wrong.
func (m *model) explore() walk {
	type origin struct {
		parent int32
		name   string
	}
	seen := map[world]int32{{}: 0}
	worlds, origins := []world{{}}, []origin{{-1, "begin"}}
	calm := [][]int32{nil} // edges back, of steps that are no fault
	for at := 0; at < len(worlds); at++ {
		if wrong := m.fencing(worlds[at]); wrong != "" {
			var trail []string
			for i := int32(at); i > 0; i = origins[i].parent {
				trail = append(trail, origins[i].name)
			}
			slices.Reverse(trail)
			return walk{worlds: worlds, wrong: wrong, trail: trail}
		}
		for _, t := range m.transitions(worlds[at]) {
			to, known := seen[t.to]
			if !known {
				to = int32(len(worlds))
				seen[t.to] = to
				worlds, origins, calm = append(worlds, t.to), append(origins, origin{int32(at), t.name}), append(calm, nil)
			}
			if !t.fault {
				calm[to] = append(calm[to], int32(at))
			}
		}
	}
	return walk{worlds: worlds, wrong: m.deadEnd(worlds, calm)}
}

// deadEnd looks for a world from which no settled one can be reached, even when nothing fails any longer.
func (m *model) deadEnd(worlds []world, calm [][]int32) string {
	reached := make([]bool, len(worlds))
	var queue []int32
	for i, w := range worlds {
		if m.settled(w) {
			reached[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, from := range calm[i] {
			if !reached[from] {
				reached[from] = true
				queue = append(queue, from)
			}
		}
	}
	if i := slices.Index(reached, false); i >= 0 {
		return fmt.Sprintf("dead end: %+v", worlds[i])
	}
	return ""
}

var routes = map[string][attempts]uint8{"to B, then to C": {0, 1}, "to B, then to B again": {0, 0}}

func TestNeverTwoNeverNone(t *testing.T) {
	for name, goesTo := range routes {
		t.Run(name, func(t *testing.T) {
			m := &model{goesTo: goesTo}
			found := m.explore()
			if found.wrong != "" {
				t.Fatalf("%s\n%v", found.wrong, found.trail)
			}
			t.Logf("%d states", len(found.worlds))
			m.checkReach(t, found.worlds)
		})
	}
}

// checkReach fails where the walk did not come to what it is about.
func (m *model) checkReach(t *testing.T, worlds []world) {
	for name, is := range map[string]func(world) bool{
		"the sandbox moved and the source is gone": func(w world) bool { return w.original == destroyed && w.ran[1] },
		"a take-back that runs": func(w world) bool {
			return w.original == running && w.store.platter[0].state() == TakenBack
		},
		"a late commit that meets a refusal": func(w world) bool {
			return w.has(0, commitSent) && w.targets[m.goesTo[0]].store.platter[0].state() == Refused
		},
		"owner without a start": func(w world) bool {
			at := w.targets[m.goesTo[0]]
			return at.store.platter[0].state() == Owner && at.down
		},
		"a record that can be read and is not on the disk": func(w world) bool { return w.store.cache != w.store.platter },
	} {
		if !slices.ContainsFunc(worlds, is) {
			t.Errorf("never reached: %s", name)
		}
	}
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for _, broken := range []rule{
		recordBeforeCommit, abortAfterFailure, disarmFirst, refuseDurably, ownBeforeStart, destroyOnComplete,
		lostNeedsOperator, silenceIsNoAnswer, syncOnOpen, oneDriver, commitNamesAttempt, abortBeforeResume,
	} {
		t.Run(string(broken), func(t *testing.T) {
			found := (&model{broken: broken, goesTo: routes["to B, then to B again"]}).explore()
			if found.wrong == "" {
				t.Fatalf("%d states, and nothing went wrong without this rule", len(found.worlds))
			}
			t.Logf("%s after %d states: %q", found.wrong, len(found.worlds), found.trail)
		})
	}
}
