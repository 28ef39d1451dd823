package journal

import (
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// Action is what a source does next about an attempt.
type Action string

// The actions.
const (
	// Abort: append Aborted, then resume the sandbox if it is paused.
	Abort Action = "abort"
	// Resume: the record says that the sandbox belongs here: resume it if it is paused.
	Resume Action = "resume"
	// Ask: stay paused, ask the target again later.
	Ask Action = "ask"
	// SendCommit: send the commit again.
	SendCommit Action = "send-commit"
	// Serve: serve missing pages, and ask again later.
	Serve Action = "serve"
	// TakeBack: append TakenBack at a new epoch, then resume the sandbox.
	TakeBack Action = "take-back"
	// Depart: append Departed, then destroy the local copy.
	Depart Action = "depart"
	// Destroy: the record says that it departed: make sure that the local copy is gone.
	Destroy Action = "destroy"
	// Operator: what is known does not say where the state is. Stay as it is until a person decides.
	Operator Action = "operator"
	// Nothing: there is no such attempt.
	Nothing Action = "nothing"
)

// Decide returns what a source does, given the newest durable state of an attempt in its journal and how the target
// says that it stands, or attempt.Unreachable. It is the table in the package documentation.
//
// Only durable records count: whoever got ErrUncertain from Append knows the state before it, and must not take
// what the failed record would have said for true.
func Decide(state State, standing attempt.Standing) Action {
	switch state {
	case None:
		return Nothing
	case Departed:
		return Destroy
	case HandedOver:
		return decideHandedOver(standing)
	case Begun:
		if saysOwned(standing) {
			return Operator
		}
		return Abort
	case Aborted, TakenBack:
		if saysOwned(standing) {
			return Operator
		}
		return Resume
	}
	return Operator // a target's state, or one of a newer build
}

func decideHandedOver(standing attempt.Standing) Action {
	switch standing {
	case attempt.Unreachable, attempt.Owner:
		return Ask
	case attempt.Prepared:
		return SendCommit
	case attempt.Incomplete:
		return Serve
	case attempt.Complete:
		return Depart
	case attempt.Refused:
		return TakeBack
	}
	return Operator
}

// saysOwned says whether an answer contradicts a source that never handed over, or took back. It cannot happen while
// both journals tell the truth; when one was restored from a backup, it must not be made worse.
func saysOwned(standing attempt.Standing) bool {
	switch standing {
	case attempt.Unreachable, attempt.Prepared, attempt.Refused:
		return false
	}
	return true
}

// Choice is what an operator decides about an attempt whose answer is lost.
type Choice string

// The choices.
const (
	// KeepHere: this host's copy is the sandbox; the other host's never ran or is gone, which the operator has made sure of.
	KeepHere Choice = "here"
	// GiveUpHere: what this host has of the sandbox is not it any longer.
	GiveUpHere Choice = "elsewhere"
)

// Resolve returns the state to append for an operator's choice, with Record.Operator set, or an ErrIllegal where there
// is nothing to choose: an attempt that is over, or one that goes on by itself.
func Resolve(role Role, state State, choice Choice) (State, error) {
	switch {
	case role == Source && state == HandedOver && choice == KeepHere:
		return TakenBack, nil
	case role == Source && state == HandedOver && choice == GiveUpHere:
		return Departed, nil
	case role == Target && (state == Owner || state.Arriving() || state == Complete) && choice == GiveUpHere:
		return Abandoned, nil
	}
	return None, fmt.Errorf("%w: %s has no choice %q for an attempt that is %q", ErrIllegal, role, choice, state)
}
