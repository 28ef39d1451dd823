package journal

import (
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// startDriver is a new command, or an agent that recovers. Both open the journal first.
func (e *explorer) startDriver(d int) {
	w := e.from
	if e.m.broken != oneDriver && (d > 0 || w.drivers[0].step != noDriver) {
		return
	}
	opened := w.store
	if e.m.broken != syncOnOpen {
		opened.platter = opened.cache
	}
	current := -1
	for k := range w.store.cache {
		if w.store.cache[k] != 0 {
			current = k
		}
	}
	if current >= 0 {
		k := uint8(current)
		var to step
		switch Decide(opened.cache[k].state(), attempt.Unreachable) {
		case Abort:
			to = aborting
		case Ask:
			to = asking
		case Resume:
			to = resuming
		case Destroy:
			to = destroying
		}
		e.step("recover", func(w *world) { w.store, w.drivers[d] = opened, driver{to, k} })
		if s := opened.cache[k].state(); s != Aborted && s != TakenBack {
			return
		}
	}
	if k := uint8(current + 1); current+1 < attempts && w.original == running {
		started := func(w *world) { w.drivers[d] = driver{planned, k} }
		e.write("begun", k, Begun, sourceStore, func(w *world) {
			if e.m.broken != syncOnOpen {
				w.store.platter = w.store.cache
			}
			started(w)
		}, func(w *world) {})
	}
}

// drive is the next step of a driver.
func (e *explorer) drive(d int) {
	w, at := e.from, e.from.drivers[d]
	k := at.attempt
	goTo := func(s step) func(*world) { return func(w *world) { w.drivers[d].step = s } }
	e.fault("driver dies", func(w *world) { w.drivers[d] = driver{} })

	switch at.step {
	case planned:
		e.step("pause and send state", func(w *world) {
			if w.original == running {
				w.original = pausedArmed
				w.send(k, stateSent)
				w.drivers[d].step = paused
			}
		})
		e.step("cancel", goTo(aborting))
	case paused:
		if w.has(k, preparedSent) {
			e.step("hear prepared", goTo(prepared))
		}
		e.step("give up", goTo(aborting))
	case prepared:
		switch {
		case e.m.broken == disarmFirst:
			e.step("do not disarm", goTo(disarmed))
		case w.original == pausedArmed:
			e.step("disarm", func(w *world) { w.original = pausedDisarmed; w.drivers[d].step = disarmed })
		default:
			e.step("cannot disarm", goTo(aborting))
		}
	case disarmed:
		failed := goTo(aborting)
		if e.m.broken == abortAfterFailure {
			failed = goTo(resuming)
		}
		if e.m.broken == recordBeforeCommit {
			e.step("send commit first", func(w *world) { w.send(k, commitSent) })
		}
		e.write("handed over", k, HandedOver, sourceStore, goTo(sending), failed)
		e.step("cancel", goTo(aborting))
	case sending:
		e.step("send commit", func(w *world) { w.send(k, commitSent); w.drivers[d].step = asking })
	case asking:
		e.decide(d, k)
	case aborting:
		if e.m.broken == abortBeforeResume {
			e.step("resume first", func(w *world) { resume(w); w.drivers[d] = driver{} })
		}
		e.write("aborted", k, Aborted, sourceStore, goTo(resuming), func(*world) {})
	case takingBack:
		e.write("taken back", k, TakenBack, sourceStore, goTo(resuming), func(*world) {})
	case resuming:
		e.step("resume", func(w *world) { resume(w); w.drivers[d] = driver{} })
	case departing:
		e.write("departed", k, Departed, sourceStore, goTo(destroying), func(*world) {})
	case destroying:
		e.step("destroy", func(w *world) { w.original = destroyed; w.drivers[d] = driver{} })
	}
}

func resume(w *world) {
	if w.original == pausedArmed || w.original == pausedDisarmed {
		w.original = running
	}
}

// decide is what a driver does after a handover, about every answer that was ever given and about silence.
func (e *explorer) decide(d int, k uint8) {
	heard := []attempt.Standing{attempt.Unreachable}
	for i, s := range attempt.Standings {
		if e.from.has(k, answered+message(i)) {
			heard = append(heard, s)
		}
	}
	for _, s := range heard {
		action := Decide(HandedOver, s)
		switch {
		case e.m.broken == destroyOnComplete && s == attempt.Incomplete:
			action = Depart
		case e.m.broken == lostNeedsOperator && s == attempt.Lost,
			e.m.broken == silenceIsNoAnswer && s == attempt.Unreachable:
			action = TakeBack
		}
		name := fmt.Sprintf("hear %s: %s", s, action)
		switch action {
		case SendCommit:
			e.step(name, func(w *world) { w.send(k, commitSent) })
		case TakeBack:
			e.step(name, func(w *world) { w.drivers[d].step = takingBack })
		case Depart:
			e.step(name, func(w *world) { w.drivers[d].step = departing })
		}
	}
}

// originalAndHost is what happens to the source by itself.
func (e *explorer) originalAndHost() {
	if e.from.original == pausedArmed {
		e.step("deadline passes: resume", func(w *world) { w.original = running })
	}
	kill := func(w *world) {
		if w.original != destroyed {
			w.original = dead
		}
	}
	e.fault("sandbox dies", kill)
	for _, kept := range []bool{false, true} {
		e.fault("source host dies", func(w *world) {
			kill(w)
			w.drivers = [2]driver{}
			w.store = w.store.afterPowerLoss(kept)
		})
	}
}

// afterPowerLoss returns what a store holds once the host is back: what was not synced is there, or not.
func (s store) afterPowerLoss(kept bool) store {
	if kept {
		return store{s.cache, s.cache}
	}
	return store{s.platter, s.platter}
}
