package convergence

import (
	"math"
	"time"
)

// OnTimeout is what happens to a migration that does not converge.
type OnTimeout string

// The values of --on-timeout.
const (
	Abort    OnTimeout = "abort" // the default: the sandbox stays where it is
	PostCopy OnTimeout = "postcopy"
	Stop     OnTimeout = "stop" // stop and send the rest, however long that takes
)

// Defaults of Budget.
const (
	DefaultMaxDowntime = 300 * time.Millisecond
	DefaultTimeout     = 10 * time.Minute
	DefaultStallRounds = 3
	DefaultMaxRounds   = 100
)

// Budget is what the operator allows. The zero Budget is the defaults.
type Budget struct {
	MaxDowntime time.Duration // longest predicted downtime to stop with; DefaultMaxDowntime
	Timeout     time.Duration // for all rounds together; DefaultTimeout
	OnTimeout   OnTimeout     // Abort
	StallRounds int           // rounds without progress before something is done; DefaultStallRounds
	MaxRounds   int           // DefaultMaxRounds

	// MaxThrottlePercent is how much CPU time may be taken from the sandbox to let the copying win, in steps of
	// ThrottleStepPercent; 0 is not at all, the most is MostThrottlePercent.
	MaxThrottlePercent int
}

// ThrottleStepPercent is how much one step of throttling takes.
const ThrottleStepPercent = 20

// MostThrottlePercent is as much as may be taken: a sandbox that runs not at all changes nothing, and might as well be stopped.
const MostThrottlePercent = 95

func (b Budget) withDefaults() Budget {
	if b.MaxDowntime <= 0 {
		b.MaxDowntime = DefaultMaxDowntime
	}
	if b.Timeout <= 0 {
		b.Timeout = DefaultTimeout
	}
	if b.StallRounds <= 0 {
		b.StallRounds = DefaultStallRounds
	}
	if b.MaxRounds <= 0 {
		b.MaxRounds = DefaultMaxRounds
	}
	if b.OnTimeout != PostCopy && b.OnTimeout != Stop {
		b.OnTimeout = Abort
	}
	b.MaxThrottlePercent = min(max(b.MaxThrottlePercent, 0), MostThrottlePercent)
	return b
}

// Measurements are how a migration stands at the end of a round.
type Measurements struct {
	Rounds         int           // sent so far
	Elapsed        time.Duration // since the first began
	RemainingBytes uint64        // of memory that a stop would have to send now

	// PastBytes are RemainingBytes at the ends of the earlier rounds since the throttle last changed, oldest first.
	PastBytes []uint64

	DirtyBytesPerSecond float64       // of memory that the sandbox changes
	LinkBytesPerSecond  float64       // of memory that reaches the target, after zero pages, references and compression
	FixedDowntime       time.Duration // what the stop costs apart from pages
	ThrottlePercent     int           // in force
}

// Action is what comes next.
type Action string

// The actions.
const (
	ActionRound    Action = "round"
	ActionStop     Action = "stop"
	ActionThrottle Action = "throttle" // by Decision.ThrottlePercent, then another round
	ActionPostCopy Action = "postcopy"
	ActionAbort    Action = "abort"
)

// Reason is why, as a stable code.
type Reason string

// The reasons.
const (
	ReasonConverged  Reason = "converged"   // stop: the predicted downtime is allowed
	ReasonImproving  Reason = "improving"   // round: the stop could come, and gets shorter still
	ReasonLast       Reason = "last"        // round: the stop comes after it, without another look
	ReasonOverBudget Reason = "over_budget" // round: the stop would be too long
	ReasonStalled    Reason = "stalled"     // no progress in StallRounds rounds
	ReasonTimeout    Reason = "timeout"
	ReasonRounds     Reason = "rounds" // MaxRounds
)

// Unpredictable is the predicted downtime where the link rate is not known and something remains.
const Unpredictable = time.Duration(math.MaxInt64)

// Decision is what Next decided.
type Decision struct {
	Action            Action        `json:"action"`
	Reason            Reason        `json:"reason"`
	PredictedDowntime time.Duration `json:"predictedDowntimeNanoseconds"` // of a stop now
	ThrottlePercent   int           `json:"throttlePercent"`              // to have from now on
}

const (
	// minGain and minGainShare are what another round must take off the stop once that could come.
	minGain      = 5 * time.Millisecond
	minGainShare = 0.1
	// roundOverhead is what a round costs apart from sending: the sandbox dirties pages meanwhile.
	roundOverhead = 10 * time.Millisecond
	// minProgress is how much smaller the smallest remainder must get for a round to count as progress.
	minProgress = 0.05
)

// Next decides what comes after a round.
func Next(m Measurements, b Budget) Decision {
	b = b.withDefaults()
	m.ThrottlePercent = min(max(m.ThrottlePercent, 0), MostThrottlePercent)
	predicted := Predict(m)
	decide := func(a Action, r Reason) Decision {
		return Decision{Action: a, Reason: r, PredictedDowntime: predicted, ThrottlePercent: m.ThrottlePercent}
	}
	over := exhausted(m, b)
	if predicted <= b.MaxDowntime {
		if over == "" && !stalled(m, b.StallRounds) && improves(m, predicted) {
			return decide(ActionRound, ReasonImproving)
		}
		return decide(ActionStop, ReasonConverged)
	}
	if over != "" {
		return decide(giveUp(b.OnTimeout), over)
	}
	if !stalled(m, b.StallRounds) {
		return decide(ActionRound, ReasonOverBudget)
	}
	if m.ThrottlePercent < b.MaxThrottlePercent {
		d := decide(ActionThrottle, ReasonStalled)
		d.ThrottlePercent = min(m.ThrottlePercent+ThrottleStepPercent, b.MaxThrottlePercent)
		return d
	}
	return decide(giveUp(b.OnTimeout), ReasonStalled)
}

// Predict returns the downtime of a stop now.
func Predict(m Measurements) time.Duration {
	fixed := max(m.FixedDowntime, 0)
	if m.RemainingBytes == 0 {
		return fixed
	}
	if !usable(m.LinkBytesPerSecond) {
		return Unpredictable
	}
	total := float64(fixed) + float64(m.RemainingBytes)/m.LinkBytesPerSecond*float64(time.Second)
	if total >= math.MaxInt64 {
		return Unpredictable
	}
	return time.Duration(total)
}

// exhausted returns why no further round is allowed, or "".
func exhausted(m Measurements, b Budget) Reason {
	switch {
	case m.Elapsed >= b.Timeout:
		return ReasonTimeout
	case m.Rounds >= b.MaxRounds:
		return ReasonRounds
	}
	return ""
}

// improves says whether another round makes the stop enough shorter. What a round leaves is what is dirtied while it
// lasts, and at most what there is now: a round never makes a prediction worse.
func improves(m Measurements, predicted time.Duration) bool {
	if !usable(m.DirtyBytesPerSecond) || !usable(m.LinkBytesPerSecond) {
		return false
	}
	remaining := float64(m.RemainingBytes)
	roundSeconds := remaining/m.LinkBytesPerSecond + roundOverhead.Seconds()
	gainSeconds := (remaining - m.DirtyBytesPerSecond*roundSeconds) / m.LinkBytesPerSecond
	return gainSeconds >= max(minGain.Seconds(), minGainShare*predicted.Seconds())
}

// stalled says whether the last k rounds left no less than the best round before them.
func stalled(m Measurements, k int) bool {
	if len(m.PastBytes) < k {
		return false
	}
	split := len(m.PastBytes) - k + 1
	best := smallest(m.PastBytes[:split])
	latest := min(smallest(m.PastBytes[split:]), m.RemainingBytes)
	return float64(latest) > float64(best)*(1-minProgress)
}

// smallest returns the largest number there is for an empty list.
func smallest(list []uint64) uint64 {
	out := uint64(math.MaxUint64)
	for _, n := range list {
		out = min(out, n)
	}
	return out
}

// usable says whether a rate is a positive finite number.
func usable(rate float64) bool { return rate > 0 && !math.IsInf(rate, 1) }

func giveUp(on OnTimeout) Action {
	switch on {
	case PostCopy:
		return ActionPostCopy
	case Stop:
		return ActionStop
	}
	return ActionAbort
}
