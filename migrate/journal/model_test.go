package journal

import (
	"slices"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// This file walks every state that two attempts to move a sandbox can reach, with Decide, Take and Answer making the
// decisions. Between any two steps any of these can happen, any number of times:
//
//   - the source's command or agent, or a target's agent, dies; another one starts and recovers from the journal;
//   - a whole host dies, and forgets what was written and not synced, or not;
//   - the sandbox, or the copy on a target, dies; the sandbox's own resume deadline passes;
//   - a message is lost, repeated, late, or overtakes another: a message that was sent once may arrive at any time;
//   - a journal write fails: nothing is written, or it can be read but is not on the disk, or all of it is there.
//
// There is no bound on the depth: the walk ends when no new state is found. fencing says what must hold in each, and
// settles that none is a dead end. Then each rule is broken in turn, and the walk must find what goes wrong.

const (
	attempts = 2
	targets  = 2
)

// The copy on the source.
type original uint8

const (
	running original = iota
	pausedArmed
	pausedDisarmed
	destroyed
	dead
)

// stateIndex numbers the journal's states, so that a model state is small and comparable.
type stateIndex uint8

var stateNames = []State{None, Begun, Aborted, HandedOver, TakenBack, Departed, Owner, Started, Complete, Refused}

func index(s State) stateIndex { return stateIndex(slices.Index(stateNames, s)) }

func (i stateIndex) state() State { return stateNames[i] }

// store is a journal: what a process reads, and what survives the end of the host.
type store struct {
	cache, platter [attempts]stateIndex
}

// The steps of a driver: the process on the source that has the journal's lock.
type step uint8

const (
	noDriver step = iota
	planned
	paused
	prepared
	disarmed
	sending
	asking
	aborting
	resuming
	takingBack
	departing
	destroying
)

type driver struct {
	step    step
	attempt uint8
}

// The steps of a target's agent.
type duty uint8

const (
	idle duty = iota
	owning
	starting
	launching
	completing
	refusing
)

type target struct {
	down        bool
	duty        duty
	dutyAttempt uint8
	copy        uint8 // 0 absent, 1 standby, 2 running
	copyAttempt uint8
	store       store
}

// The messages that were ever sent, one bit each and attempt.
type message uint8

const (
	stateSent message = iota
	preparedSent
	commitSent
	answered // + index in attempt.Standings
	messages = answered + 6
)

type world struct {
	original original
	drivers  [2]driver // the second only without the lock
	store    store
	targets  [targets]target
	sent     [attempts]uint16
	ran      [attempts]bool // ghost: an attempt's copy ran at some time
}

// rule is one that a broken model leaves out.
type rule string

const (
	allRules           rule = ""
	recordBeforeCommit rule = "the journal says handed over before the commit is sent"
	abortAfterFailure  rule = "a failed record needs a durable abort before anything resumes"
	disarmFirst        rule = "the resume deadline is disarmed before the handover"
	refuseDurably      rule = "a refusal is durable before it is said"
	ownBeforeStart     rule = "the target's record is durable before the start"
	destroyOnComplete  rule = "the source destroys its copy on complete only"
	lostNeedsOperator  rule = "lost is for the operator"
	silenceIsNoAnswer  rule = "no answer is no refusal"
	syncOnOpen         rule = "what was read is made durable before anyone acts on it"
	oneDriver          rule = "one process at a time has the journal"
	commitNamesAttempt rule = "a commit is good for its own attempt only"
	abortBeforeResume  rule = "an attempt is written off before the sandbox resumes"
)

type model struct {
	broken rule
	goesTo [attempts]uint8 // the target of each attempt
}

// A transition is a step from a world. A fault is one that nobody wants.
type transition struct {
	name  string
	to    world
	fault bool
}

// explorer collects the transitions out of one world.
type explorer struct {
	m    *model
	from world
	out  []transition
}

func (e *explorer) step(name string, change func(*world)) { e.add(name, false, change) }

func (e *explorer) fault(name string, change func(*world)) { e.add(name, true, change) }

func (e *explorer) add(name string, fault bool, change func(*world)) {
	to := e.from
	change(&to)
	if to != e.from {
		e.out = append(e.out, transition{name, to, fault})
	}
}

// write tries to append a record: every way in which it can end.
func (e *explorer) write(name string, k uint8, s State, at func(*world) *store, done, failed func(*world)) {
	i := index(s)
	e.step(name+" written", func(w *world) {
		at(w).cache[k], at(w).platter[k] = i, i
		done(w)
	})
	e.fault(name+" failed", failed)
	e.fault(name+" failed, can be read", func(w *world) { at(w).cache[k] = i; failed(w) })
	e.fault(name+" failed, is there", func(w *world) {
		at(w).cache[k], at(w).platter[k] = i, i
		failed(w)
	})
}

func sourceStore(w *world) *store { return &w.store }

func (w *world) has(k uint8, m message) bool { return w.sent[k]&(1<<m) != 0 }

func (w *world) send(k uint8, m message) { w.sent[k] |= 1 << m }

func (w *world) answer(k uint8, s attempt.Standing) {
	w.send(k, answered+message(slices.Index(attempt.Standings, s)))
}

func (m *model) transitions(w world) []transition {
	e := &explorer{m: m, from: w}
	for d := range w.drivers {
		if w.drivers[d].step == noDriver {
			e.startDriver(d)
		} else {
			e.drive(d)
		}
	}
	e.originalAndHost()
	for t := range w.targets {
		e.agent(t)
		e.targetFaults(t)
	}
	return e.out
}
