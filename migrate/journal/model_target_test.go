package journal

import (
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

func (e *explorer) targetFaults(t int) {
	dies := func(w *world, launched bool) {
		at := &w.targets[t]
		at.down = true
		switch {
		case at.duty == launching && launched:
			e.run(w, t)
		case at.copy == 1:
			at.copy, at.copyAttempt = 0, 0 // a standby ends with its agent
		}
		at.duty, at.dutyAttempt = idle, 0
	}
	e.fault("target's agent dies", func(w *world) { dies(w, false) })
	e.fault("target's agent dies, the start was under way", func(w *world) { dies(w, true) })
	e.fault("target's copy dies", func(w *world) {
		if at := &w.targets[t]; at.copy == 2 {
			at.copy, at.copyAttempt = 0, 0
			if at.duty == completing {
				at.duty, at.dutyAttempt = idle, 0
			}
		}
	})
	for _, kept := range []bool{false, true} {
		e.fault("target host dies", func(w *world) {
			dies(w, false)
			at := &w.targets[t]
			at.copy, at.copyAttempt = 0, 0
			at.store = at.store.afterPowerLoss(kept)
		})
	}
}

// run makes the copy that is being started run.
func (e *explorer) run(w *world, t int) {
	at := &w.targets[t]
	at.copy, at.copyAttempt = 2, at.dutyAttempt
	w.ran[at.dutyAttempt] = true
}

// agent is the next step of a target's agent.
func (e *explorer) agent(t int) {
	at := e.from.targets[t]
	if at.down {
		e.step("agent starts", func(w *world) {
			at := &w.targets[t]
			at.down = false
			if e.m.broken != syncOnOpen {
				at.store.platter = at.store.cache
			}
		})
		return
	}
	k := at.dutyAttempt
	storeOf := func(w *world) *store { return &w.targets[t].store }
	goTo := func(d duty) func(*world) { return func(w *world) { w.targets[t].duty = d } }
	done := func(w *world) { w.targets[t].duty, w.targets[t].dutyAttempt = idle, 0 }
	refuse := func(w *world) {
		w.targets[t].copy, w.targets[t].copyAttempt = 0, 0
		w.targets[t].duty = refusing
	}
	switch at.duty {
	case idle:
		e.listen(t)
	case owning:
		if e.m.broken == ownBeforeStart {
			e.step("start first", func(w *world) { e.run(w, t); done(w) })
		}
		e.write("owner", k, Owner, storeOf, goTo(starting), refuse)
	case starting:
		e.write("started", k, Started, storeOf, goTo(launching), refuse)
	case launching:
		e.step("start", func(w *world) {
			e.run(w, t)
			w.answer(k, attempt.Incomplete)
			done(w)
		})
	case completing:
		e.write("complete", k, Complete, storeOf, done, func(*world) {})
	case refusing:
		e.write("refused", k, Refused, storeOf, func(w *world) {
			w.answer(k, attempt.Refused)
			done(w)
		}, func(*world) {})
	}
}

// listen is an agent that waits for messages.
func (e *explorer) listen(t int) {
	at := e.from.targets[t]
	for k := uint8(0); k < attempts; k++ {
		state := at.store.cache[k].state()
		if e.m.goesTo[k] != uint8(t) || e.from.store.cache[k] == 0 && e.from.sent[k] == 0 {
			continue
		}
		if e.from.has(k, stateSent) && state == None && at.copy != 2 && e.mayOwn(t, k) {
			e.step("prepare", func(w *world) {
				w.targets[t].copy, w.targets[t].copyAttempt = 1, k
				w.send(k, preparedSent)
			})
		}
		copyOf := func(k uint8) Copy {
			if at.copy == 0 || at.copyAttempt != k {
				return Absent
			}
			return []Copy{Absent, Standby, Running}[at.copy]
		}
		e.respond(t, k, "query", Answer(state, copyOf(k)))
		if e.from.has(k, commitSent) {
			e.respond(t, k, "commit", Take(state, copyOf(k)))
			if e.m.broken == commitNamesAttempt && at.copy == 1 {
				other := at.copyAttempt
				e.respond(t, other, "commit", Take(at.store.cache[other].state(), Standby))
			}
		}
		if at.copy == 2 && at.copyAttempt == k && state == Started {
			e.step("last page arrives", func(w *world) { w.targets[t].duty, w.targets[t].dutyAttempt = completing, k })
		}
	}
}

// mayOwn asks the real History what it says about a new attempt.
func (e *explorer) mayOwn(t int, k uint8) bool {
	var records []Record
	for a, s := range e.from.targets[t].store.cache {
		id, epoch := attempt.ID{byte(a + 1)}, attempt.Epoch(2*a+1)
		path := map[State][]State{
			Refused: {Refused}, Owner: {Owner}, Started: {Owner, Started}, Complete: {Owner, Started, Complete},
		}[s.state()]
		for _, s := range path {
			records = append(records, Record{Role: Target, State: s, Attempt: id, Epoch: epoch})
		}
	}
	h, _, err := fold(records)
	if err != nil {
		panic(err)
	}
	return h.CheckOwn(attempt.ID{k + 1}, attempt.Epoch(2*k+1)) == nil
}

func (e *explorer) respond(t int, k uint8, what string, r Response) {
	name := fmt.Sprintf("target hears %s: %+v", what, r)
	switch {
	case r.Start:
		e.step(name, func(w *world) { w.targets[t].duty, w.targets[t].dutyAttempt = owning, k })
	case r.Write == Refused:
		e.step(name, func(w *world) {
			w.targets[t].duty, w.targets[t].dutyAttempt = refusing, k
			if e.m.broken == refuseDurably {
				w.answer(k, attempt.Refused)
			}
		})
	default:
		e.step(name, func(w *world) { w.answer(k, r.Reply) })
	}
}
