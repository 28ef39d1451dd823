package journal

import "github.com/sbxmigrate/sbxmigrate/migrate/attempt"

// Copy is what of an attempt's sandbox is alive on a target right now. It is not durable.
type Copy string

// The copies. A target that does not know for certain that a process which could start is gone waits until it does: it
// may not call that Absent.
const (
	Absent   Copy = ""         // no process, or one that can never start
	Standby  Copy = "standby"  // prepared: all there and verified, waiting for a commit
	Starting Copy = "starting" // the commit is being carried out by this process
	Running  Copy = "running"
)

// Response is what a target does about a message: first Write, which must be durable, then Start, then Reply.
type Response struct {
	// Write is the state to append first, or None. Where Append fails nothing is replied, and nothing starts: the
	// standby is given up and Refused is appended, as often as it takes.
	Write State
	// Start: append Started after Write, then start the tasks.
	Start bool
	// Reply answers the source.
	Reply attempt.Standing
}

// Take returns what a target does about a commit of an attempt, given the newest durable state of that attempt and
// its copy.
func Take(state State, copy Copy) Response {
	if state == None && copy == Standby {
		return Response{Write: Owner, Start: true, Reply: attempt.Owner}
	}
	return Answer(state, copy)
}

// Answer returns what a target does when the source asks how an attempt stands.
func Answer(state State, copy Copy) Response {
	switch state {
	case None:
		switch copy {
		case Standby:
			return Response{Reply: attempt.Prepared}
		case Absent:
			// The source takes it back on this answer, so it must bind us for ever: a commit may still be under way.
			return Response{Write: Refused, Reply: attempt.Refused}
		}
		return Response{Reply: attempt.Owner}
	case Owner, Started, Differs:
		switch copy {
		case Running:
			return Response{Reply: attempt.Incomplete}
		case Starting:
			return Response{Reply: attempt.Owner}
		}
		return Response{Reply: attempt.Lost}
	case Complete:
		if copy == Running {
			return Response{Reply: attempt.Complete}
		}
		// It had all pages, but the source's paused copy may be the last one there is.
		return Response{Reply: attempt.Lost}
	case Ended:
		return Response{Reply: attempt.Complete}
	case Refused:
		return Response{Reply: attempt.Refused}
	}
	return Response{Reply: attempt.Lost}
}
