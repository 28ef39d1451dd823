package attempt

import "slices"

// Standing is how an attempt stands at its target, as the target tells the source that asks about it.
type Standing string

// The standings. Unreachable is what a source notes for itself when nobody answers; it is never sent.
const (
	Unreachable Standing = "unreachable"        // no answer, or none that says anything
	Prepared    Standing = "prepared"           // all is there and verified; no commit has been seen
	Owner       Standing = "owner"              // the commit is taken, the start is under way
	Incomplete  Standing = "running-incomplete" // it runs; pages are still missing
	Complete    Standing = "complete"           // it runs, or ended in its own time; every page had arrived
	Refused     Standing = "refused"            // durably: it never ran there and never will
	Lost        Standing = "lost"               // it was or may have been owner, and nothing runs any longer
)

// Standings lists what a target can answer.
var Standings = []Standing{Prepared, Owner, Incomplete, Complete, Refused, Lost}

// Answerable says whether s is something that a target can answer.
func (s Standing) Answerable() bool { return slices.Contains(Standings, s) }
