package checkpoint

import "time"

// Phase is one part of an operation and how long it took.
type Phase struct {
	Name  string `json:"name"`
	Nanos int64  `json:"nanos"`
}

// Phases are consecutive and complete: their times sum to the total.
type Phases []Phase

// Total is the time from the first phase's beginning to the last one's end.
func (p Phases) Total() time.Duration {
	var sum int64
	for _, phase := range p {
		sum += phase.Nanos
	}
	return time.Duration(sum)
}

// stopwatch cuts the time since it was made into phases.
type stopwatch struct {
	last   time.Time
	phases Phases
	notify func(Phase)
}

func newStopwatch(notify func(Phase)) *stopwatch {
	return &stopwatch{last: time.Now(), notify: notify}
}

// lap ends a phase that began where the one before ended.
func (s *stopwatch) lap(name string) {
	now := time.Now()
	phase := Phase{Name: name, Nanos: now.Sub(s.last).Nanoseconds()}
	s.last = now
	s.phases = append(s.phases, phase)
	if s.notify != nil {
		s.notify(phase)
	}
}
