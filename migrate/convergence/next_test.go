package convergence

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	mib = 1 << 20
	ms  = time.Millisecond
)

func TestNext(t *testing.T) {
	// A 100 MiB/s link; 20 ms of downtime before any page.
	base := Measurements{Rounds: 3, Elapsed: time.Minute, LinkBytesPerSecond: 100 * mib, DirtyBytesPerSecond: 10 * mib, FixedDowntime: 20 * ms}
	with := func(change func(*Measurements)) Measurements {
		m := base
		change(&m)
		return m
	}
	stuck := []uint64{50 * mib, 51 * mib, 50 * mib}
	nan, inf := math.NaN(), math.Inf(1)
	for _, test := range []struct {
		name   string
		m      Measurements
		b      Budget
		action Action
		reason Reason
	}{
		{"nothing remains", base, Budget{}, ActionStop, ReasonConverged},
		{"little remains", with(func(m *Measurements) { m.RemainingBytes = mib / 2 }), Budget{}, ActionStop, ReasonConverged},
		{"allowed, but a round takes 200 ms off", with(func(m *Measurements) { m.RemainingBytes = 25 * mib }), Budget{}, ActionRound, ReasonImproving},
		{"allowed, and a round takes nothing off", with(func(m *Measurements) { m.RemainingBytes, m.DirtyBytesPerSecond = 25*mib, 100*mib }), Budget{}, ActionStop, ReasonConverged},
		{"allowed, improving, time is up", with(func(m *Measurements) { m.RemainingBytes, m.Elapsed = 25*mib, time.Hour }), Budget{}, ActionStop, ReasonConverged},
		{"allowed, improving, but stalled before", with(func(m *Measurements) {
			m.RemainingBytes, m.PastBytes = 25*mib, []uint64{25 * mib, 25 * mib, 25 * mib}
		}), Budget{}, ActionStop, ReasonConverged},
		{"allowed, dirty rate not known", with(func(m *Measurements) { m.RemainingBytes, m.DirtyBytesPerSecond = 25*mib, nan }), Budget{}, ActionStop, ReasonConverged},
		{"exactly allowed", with(func(m *Measurements) { m.RemainingBytes, m.DirtyBytesPerSecond = 28*mib, 0 }), Budget{}, ActionStop, ReasonConverged},
		{"too much", with(func(m *Measurements) { m.RemainingBytes = 50 * mib }), Budget{}, ActionRound, ReasonOverBudget},
		{"too much for a short budget", with(func(m *Measurements) { m.RemainingBytes = mib }), Budget{MaxDowntime: 25 * ms}, ActionRound, ReasonOverBudget},
		{"the stop itself is too long", with(func(m *Measurements) { m.FixedDowntime = time.Second }), Budget{}, ActionRound, ReasonOverBudget},

		{"time is up", with(func(m *Measurements) { m.RemainingBytes, m.Elapsed = 50*mib, 10*time.Minute }), Budget{}, ActionAbort, ReasonTimeout},
		{"time is up: post-copy", with(func(m *Measurements) { m.RemainingBytes, m.Elapsed = 50*mib, 2*time.Second }), Budget{Timeout: time.Second, OnTimeout: PostCopy}, ActionPostCopy, ReasonTimeout},
		{"time is up: stop", with(func(m *Measurements) { m.RemainingBytes, m.Elapsed = 50*mib, 2*time.Second }), Budget{Timeout: time.Second, OnTimeout: Stop}, ActionStop, ReasonTimeout},
		{"time is up: unknown policy", with(func(m *Measurements) { m.RemainingBytes, m.Elapsed = 50*mib, time.Hour }), Budget{OnTimeout: "panic"}, ActionAbort, ReasonTimeout},
		{"rounds are up", with(func(m *Measurements) { m.RemainingBytes, m.Rounds = 50*mib, DefaultMaxRounds }), Budget{}, ActionAbort, ReasonRounds},

		{"no progress in two rounds", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 50*mib, stuck[:2] }), Budget{}, ActionRound, ReasonOverBudget},
		{"no progress in three rounds", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 50*mib, stuck }), Budget{}, ActionAbort, ReasonStalled},
		{"progress of 4 %", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 48*mib, stuck }), Budget{}, ActionAbort, ReasonStalled},
		{"progress of 6 %", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 47*mib, stuck }), Budget{}, ActionRound, ReasonOverBudget},
		{"progress two rounds ago", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 50*mib, []uint64{90 * mib, 50 * mib, 50 * mib} }), Budget{}, ActionRound, ReasonOverBudget},
		{"worse and worse", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 90*mib, []uint64{40 * mib, 60 * mib, 80 * mib} }), Budget{OnTimeout: PostCopy}, ActionPostCopy, ReasonStalled},
		{"stalled: throttle", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes = 50*mib, stuck }), Budget{MaxThrottlePercent: 70}, ActionThrottle, ReasonStalled},
		{"stalled: throttled to the limit", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes, m.ThrottlePercent = 50*mib, stuck, 70 }), Budget{MaxThrottlePercent: 70}, ActionAbort, ReasonStalled},
		{"time is up: no throttling", with(func(m *Measurements) { m.RemainingBytes, m.PastBytes, m.Elapsed = 50*mib, stuck, time.Hour }), Budget{MaxThrottlePercent: 70}, ActionAbort, ReasonTimeout},

		{"link rate 0", with(func(m *Measurements) { m.RemainingBytes, m.LinkBytesPerSecond = 1, 0 }), Budget{}, ActionRound, ReasonOverBudget},
		{"link rate NaN", with(func(m *Measurements) { m.RemainingBytes, m.LinkBytesPerSecond = 1, nan }), Budget{}, ActionRound, ReasonOverBudget},
		{"link rate infinite", with(func(m *Measurements) { m.RemainingBytes, m.LinkBytesPerSecond = 1, inf }), Budget{}, ActionRound, ReasonOverBudget},
		{"link rate negative", with(func(m *Measurements) { m.RemainingBytes, m.LinkBytesPerSecond = 1, -5 }), Budget{}, ActionRound, ReasonOverBudget},
		{"link rate NaN, nothing remains", with(func(m *Measurements) { m.LinkBytesPerSecond = nan }), Budget{}, ActionStop, ReasonConverged},
		{"dirty rate infinite", with(func(m *Measurements) { m.RemainingBytes, m.DirtyBytesPerSecond = 25*mib, inf }), Budget{}, ActionStop, ReasonConverged},
		{"all there is", with(func(m *Measurements) { m.RemainingBytes = math.MaxUint64 }), Budget{}, ActionRound, ReasonOverBudget},
		{"negative times", with(func(m *Measurements) { m.Elapsed, m.FixedDowntime = -time.Hour, -time.Hour }), Budget{MaxDowntime: -1, Timeout: -1, MaxRounds: -1, StallRounds: -1}, ActionStop, ReasonConverged},
		{"nothing measured", Measurements{}, Budget{}, ActionStop, ReasonConverged},
		{"nothing measured but a remainder", Measurements{RemainingBytes: 1}, Budget{}, ActionRound, ReasonOverBudget},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := Next(test.m, test.b)
			if d.Action != test.action || d.Reason != test.reason {
				t.Fatalf("%+v, want %s, %s", d, test.action, test.reason)
			}
		})
	}
}

func TestPredict(t *testing.T) {
	for _, test := range []struct {
		m    Measurements
		want time.Duration
	}{
		{Measurements{RemainingBytes: 100 * mib, LinkBytesPerSecond: 100 * mib, FixedDowntime: 20 * ms}, 1020 * ms},
		{Measurements{FixedDowntime: 20 * ms}, 20 * ms},
		{Measurements{FixedDowntime: -1}, 0},
		{Measurements{RemainingBytes: 1}, Unpredictable},
		{Measurements{RemainingBytes: math.MaxUint64, LinkBytesPerSecond: math.SmallestNonzeroFloat64}, Unpredictable},
		{Measurements{RemainingBytes: math.MaxUint64, LinkBytesPerSecond: 1}, Unpredictable},
		{Measurements{RemainingBytes: 1, LinkBytesPerSecond: math.MaxFloat64}, 0},
	} {
		if got := Predict(test.m); got != test.want {
			t.Errorf("%+v: %v, want %v", test.m, got, test.want)
		}
	}
}

func TestThrottleSteps(t *testing.T) {
	m := Measurements{Rounds: 9, RemainingBytes: 50 * mib, PastBytes: []uint64{50 * mib, 50 * mib, 50 * mib}, LinkBytesPerSecond: mib}
	var steps []int
	for range 10 {
		d := Next(m, Budget{MaxThrottlePercent: 1000})
		if d.Action != ActionThrottle {
			break
		}
		if d.ThrottlePercent <= m.ThrottlePercent {
			t.Fatalf("from %d to %d", m.ThrottlePercent, d.ThrottlePercent)
		}
		m.ThrottlePercent = d.ThrottlePercent
		steps = append(steps, d.ThrottlePercent)
	}
	if len(steps) != 5 || steps[4] != MostThrottlePercent {
		t.Fatalf("steps %v", steps)
	}
}

// workload is a sandbox that dirties pages at a rate, over a working set.
type workload struct {
	dirty, set float64 // bytes a second, bytes
	link       float64
}

// migrate plays rounds until Next ends them, and returns the last decision and how many rounds it took.
func (w workload) migrate(t *testing.T, b Budget) (Decision, int) {
	m := Measurements{LinkBytesPerSecond: w.link, FixedDowntime: 20 * ms, RemainingBytes: 1 << 30}
	for {
		d := Next(m, b)
		rate := w.dirty * (1 - float64(d.ThrottlePercent)/100)
		switch d.Action {
		case ActionThrottle:
			m.ThrottlePercent, m.PastBytes = d.ThrottlePercent, nil
		case ActionRound:
			m.PastBytes = append(m.PastBytes, m.RemainingBytes)
		default:
			return d, m.Rounds
		}
		took := float64(m.RemainingBytes)/w.link + roundOverhead.Seconds()
		m.Elapsed += time.Duration(took * float64(time.Second))
		m.DirtyBytesPerSecond = rate
		m.RemainingBytes = uint64(min(rate*took, w.set))
		if m.Rounds++; m.Rounds > 1000 {
			t.Fatalf("%+v: no end in sight: %+v", w, d)
		}
	}
}

func TestWorkloads(t *testing.T) {
	for _, test := range []struct {
		name   string
		w      workload
		b      Budget
		action Action
		most   time.Duration // predicted downtime
	}{
		{"idle", workload{0, 1 << 30, 100 * mib}, Budget{}, ActionStop, 20 * ms},
		{"a tenth of the link", workload{10 * mib, 1 << 30, 100 * mib}, Budget{}, ActionStop, 40 * ms},
		{"nine tenths of the link", workload{90 * mib, 1 << 30, 100 * mib}, Budget{}, ActionStop, 300 * ms},
		{"twice the link", workload{200 * mib, 1 << 30, 100 * mib}, Budget{}, ActionAbort, Unpredictable},
		{"twice the link, over a small set", workload{200 * mib, 10 * mib, 100 * mib}, Budget{}, ActionStop, 130 * ms},
		{"twice the link, throttled", workload{200 * mib, 1 << 30, 100 * mib}, Budget{MaxThrottlePercent: 80}, ActionStop, 300 * ms},
		{"ten times the link, throttled", workload{1000 * mib, 1 << 30, 100 * mib}, Budget{MaxThrottlePercent: 80, OnTimeout: PostCopy}, ActionPostCopy, Unpredictable},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, rounds := test.w.migrate(t, test.b)
			if d.Action != test.action || d.PredictedDowntime > test.most {
				t.Fatalf("after %d rounds: %+v, %v", rounds, d, d.PredictedDowntime)
			}
			t.Logf("after %d rounds: %s, %s, %v", rounds, d.Action, d.Reason, d.PredictedDowntime)
		})
	}
}

// checkDecision fails where a decision breaks what the package promises.
func checkDecision(t *testing.T, m Measurements, b Budget) {
	d := Next(m, b)
	full := b.withDefaults()
	over := m.Elapsed >= full.Timeout || m.Rounds >= full.MaxRounds
	switch d.Action {
	case ActionRound, ActionThrottle:
		if over {
			t.Fatalf("goes on without limit: %+v of %+v, %+v", d, m, b)
		}
		if d.Action == ActionThrottle && (d.ThrottlePercent > full.MaxThrottlePercent || d.ThrottlePercent <= m.ThrottlePercent) {
			t.Fatalf("throttles to %d %%: %+v, %+v", d.ThrottlePercent, m, b)
		}
	case ActionStop:
		if d.PredictedDowntime > full.MaxDowntime && full.OnTimeout != Stop {
			t.Fatalf("stops beyond the budget: %+v of %+v, %+v", d, m, b)
		}
	case ActionPostCopy, ActionAbort:
		if giveUp(full.OnTimeout) != d.Action {
			t.Fatalf("gives up in another way: %+v of %+v, %+v", d, m, b)
		}
	default:
		t.Fatalf("%+v", d)
	}
	if d.PredictedDowntime < 0 {
		t.Fatalf("%+v", d)
	}
}

func TestPromisesHoldForAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	rates := []float64{0, -1, 1, 1e3, 1e8, 1e300, math.NaN(), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64}
	sizes := []uint64{0, 1, mib, 1 << 30, 1 << 60, math.MaxUint64}
	times := []time.Duration{0, -1, 1, ms, time.Second, time.Hour, math.MaxInt64, math.MinInt64}
	policies := []OnTimeout{"", Abort, PostCopy, Stop, "?"}
	for range 200_000 {
		m := Measurements{
			Rounds: random.IntN(300) - 10, Elapsed: pick(random, times), RemainingBytes: pick(random, sizes),
			DirtyBytesPerSecond: pick(random, rates), LinkBytesPerSecond: pick(random, rates),
			FixedDowntime: pick(random, times), ThrottlePercent: random.IntN(200) - 50,
		}
		for range random.IntN(6) {
			m.PastBytes = append(m.PastBytes, pick(random, sizes))
		}
		b := Budget{
			MaxDowntime: pick(random, times), Timeout: pick(random, times), OnTimeout: pick(random, policies),
			StallRounds: random.IntN(6) - 1, MaxRounds: random.IntN(300) - 1, MaxThrottlePercent: random.IntN(200) - 50,
		}
		checkDecision(t, m, b)
	}
}

func pick[T any](random *rand.Rand, list []T) T { return list[random.IntN(len(list))] }
