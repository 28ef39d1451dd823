package migrate

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Role is an end of a migration.
type Role string

// The roles.
const (
	Source Role = "source"
	Target Role = "target"
)

// Phase is what a migration is doing. See the package documentation.
type Phase string

// The phases, in order. Those from Done on are final.
const (
	Plan     Phase = "plan"
	Rounds   Phase = "rounds"
	Pause    Phase = "pause"
	State    Phase = "state"
	Residual Phase = "residual"
	Load     Phase = "load"
	Start    Phase = "start"
	Announce Phase = "announce"
	Fetch    Phase = "fetch"

	Done       Phase = "done"
	Aborted    Phase = "aborted"    // before the commit: nothing happened
	TakenBack  Phase = "taken-back" // after it: the target never ran and never will
	Unresolved Phase = "unresolved" // after it: not known here how it ended
)

// workPhases are those that take time, in the order in which reports list them.
var workPhases = []Phase{Plan, Rounds, Pause, State, Residual, Load, Start, Announce, Fetch}

// after has, for each role and phase, the phases that may follow.
var after = map[Role]map[Phase][]Phase{
	Source: {
		Plan:   {Rounds, Pause, Aborted}, // straight to the pause: mode stop, or postcopy
		Rounds: {Pause, Aborted},
		Pause:  {State, Aborted},
		// Post-copy has no residual pages, but lists and digests are sent all the same.
		State:    {Residual, Aborted},
		Residual: {Load, Aborted},
		Load:     {Start, Aborted},
		Start:    {Announce, TakenBack, Unresolved},
		Announce: {Fetch, Done, Unresolved},
		Fetch:    {Done, Unresolved},
	},
	Target: {
		Plan:     {Rounds, Pause, Aborted},
		Rounds:   {Pause, Aborted},
		Pause:    {State, Aborted},
		State:    {Residual, Aborted},
		Residual: {Load, Aborted},
		Load:     {Start, Aborted},
		// A target that took a commit and failed to start has refused, or needs its operator.
		Start:    {Announce, TakenBack, Unresolved},
		Announce: {Fetch, Done},
		Fetch:    {Done, Unresolved}, // the source is gone for good, and pages with it
	},
}

// Final says whether nothing follows.
func (p Phase) Final() bool {
	return slices.Contains([]Phase{Done, Aborted, TakenBack, Unresolved}, p)
}

// Down says whether the sandbox's tasks stand still in this phase: the sum of these phases is the downtime.
func (p Phase) Down() bool {
	return slices.Contains([]Phase{Pause, State, Residual, Load, Start}, p)
}

// PhaseTime is how long a phase took.
type PhaseTime struct {
	Phase       Phase `json:"phase"`
	Nanoseconds int64 `json:"nanoseconds"`
}

// Machine is the phases of one side of one migration. It begins in Plan.
type Machine struct {
	role  Role
	now   func() time.Time // monotonic
	began time.Time

	mu sync.Mutex
	// phase is the current one. Guarded by mu, as is everything below.
	phase Phase
	// entered is when the current phase began.
	entered time.Time
	// times are of the phases that are over.
	times []PhaseTime
	// reason is why a final phase other than Done was entered.
	reason string
}

// NewMachine starts the clock of a migration.
func NewMachine(role Role) *Machine { return newMachine(role, time.Now) }

func newMachine(role Role, now func() time.Time) *Machine {
	began := now()
	return &Machine{role: role, now: now, began: began, phase: Plan, entered: began}
}

// Enter goes to the next phase. Its error is a *PhaseError, and then nothing has changed.
func (m *Machine) Enter(to Phase) error { return m.end(to, "") }

// Fail ends a migration after its commit, as TakenBack or Unresolved, with a reason for the report.
func (m *Machine) Fail(to Phase, reason string) error { return m.end(to, reason) }

func (m *Machine) end(to Phase, reason string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(after[m.role][m.phase], to) {
		return &PhaseError{Role: m.role, From: m.phase, To: to}
	}
	now := m.now()
	m.times = append(m.times, PhaseTime{m.phase, now.Sub(m.entered).Nanoseconds()})
	m.phase, m.entered, m.reason = to, now, reason
	return nil
}

// Phase returns the current phase.
func (m *Machine) Phase() Phase {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase
}

// Cancellable says whether the migration may be aborted now.
func (m *Machine) Cancellable() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(after[m.role][m.phase], Aborted)
}

// Timing is how a migration spent its time.
type Timing struct {
	Began   time.Time
	Phases  []PhaseTime // in order; the current one, if it is not final, up to now
	Outcome Phase       // the current or final phase
	Reason  string      // of an outcome other than Done
}

// Timing returns the times so far.
func (m *Machine) Timing() Timing {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := Timing{Began: m.began, Phases: slices.Clone(m.times), Outcome: m.phase, Reason: m.reason}
	if !m.phase.Final() {
		out.Phases = append(out.Phases, PhaseTime{m.phase, m.now().Sub(m.entered).Nanoseconds()})
	}
	return out
}

// Total returns the sum of all phases.
func (t Timing) Total() time.Duration {
	return t.sum(func(Phase) bool { return true })
}

// Downtime returns the sum of the phases in which the sandbox stands still.
func (t Timing) Downtime() time.Duration { return t.sum(Phase.Down) }

func (t Timing) sum(counts func(Phase) bool) time.Duration {
	var total time.Duration
	for _, p := range t.Phases {
		if counts(p.Phase) {
			total += time.Duration(p.Nanoseconds)
		}
	}
	return total
}

// String returns the phases with their times, for logs.
func (t Timing) String() string {
	var out []byte
	for i, p := range t.Phases {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = fmt.Appendf(out, "%s %v", p.Phase, time.Duration(p.Nanoseconds))
	}
	return string(out)
}
