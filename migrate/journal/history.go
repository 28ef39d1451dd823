package journal

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// next has, for each role and state, the states that may follow.
var next = map[Role]map[State][]State{
	Source: {
		None:       {Begun},
		Begun:      {Aborted, HandedOver},
		HandedOver: {TakenBack, Departed},
	},
	Target: {
		None:     {Owner, Refused},
		Owner:    {Started, Refused, Abandoned},
		Started:  {Complete, Differs, Abandoned},
		Differs:  {Abandoned},
		Complete: {Ended, Abandoned},
	},
}

// reserved is the room that must be left when an attempt begins, so that it can always be brought to its end.
const reserved = 8

// History is what a journal says about one sandbox on one host. The zero History is that of a sandbox that was never
// part of a migration.
type History struct {
	records []Record
	last    map[attempt.ID]Record
	epoch   attempt.Epoch // the highest begun, taken back or owned at
	current attempt.ID    // the attempt that began or was taken last
	open    attempt.ID    // the attempt that is under way or needs a decision
	holds   bool          // the sandbox arrived here and has neither gone on nor ended
}

// Records returns every record, oldest first. The caller must not change them.
func (h *History) Records() []Record { return slices.Clip(h.records) }

// Last returns the newest record of an attempt; its State is None where there is none.
func (h *History) Last(id attempt.ID) Record { return h.last[id] }

// Epoch returns the highest epoch that this host began, took back or owned at.
func (h *History) Epoch() attempt.Epoch { return h.epoch }

// Current returns the newest record of the attempt that began last, if any. Attempts that were only refused do not
// count.
func (h *History) Current() (Record, bool) {
	r, ok := h.last[h.current]
	return r, ok
}

// Unfinished returns the newest record of the attempt that is under way or needs a decision, if any. At most one is.
func (h *History) Unfinished() (Record, bool) {
	r, ok := h.last[h.open]
	return r, ok
}

// CheckOwn says whether this host may become owner by an attempt at an epoch: ErrOpenAttempt or ErrStaleEpoch if not.
// A target asks before it welcomes an attempt, and Append asks again.
func (h *History) CheckOwn(id attempt.ID, epoch attempt.Epoch) error {
	if open, ok := h.Unfinished(); ok {
		return fmt.Errorf("%w: %s of attempt %v, %v", ErrOpenAttempt, open.State, open.Attempt, open.Epoch)
	}
	if h.holds {
		return fmt.Errorf("%w: the sandbox lives on this host", ErrOpenAttempt)
	}
	if state := h.last[id].State; state != None {
		return fmt.Errorf("%w: attempt %v is %s", ErrIllegal, id, state)
	}
	if epoch <= h.epoch {
		return fmt.Errorf("%w: %v, this host has seen %v", ErrStaleEpoch, epoch, h.epoch)
	}
	return nil
}

// check says whether r may come next.
func (h *History) check(r Record) error {
	from := h.last[r.Attempt]
	if from.State != None && (from.Role != r.Role || r.State != TakenBack && from.Epoch != r.Epoch) {
		return fmt.Errorf("%w: attempt %v is %s at %v, record is %s at %v", ErrIllegal, r.Attempt, from.Role, from.Epoch, r.Role, r.Epoch)
	}
	if r.Attempt.IsZero() || r.Epoch == 0 || !slices.Contains(next[r.Role][from.State], r.State) {
		return fmt.Errorf("%w: %q after %q as %s", ErrIllegal, r.State, from.State, r.Role)
	}
	if room := MaxRecords - len(h.records); room < 1 || from.State == None && room < reserved {
		return fmt.Errorf("%w: %d records", ErrFull, len(h.records))
	}
	switch r.State {
	case Begun:
		if open, ok := h.Unfinished(); ok {
			return fmt.Errorf("%w: %s of attempt %v, %v", ErrOpenAttempt, open.State, open.Attempt, open.Epoch)
		}
		return h.checkEpoch(r)
	case TakenBack:
		return h.checkEpoch(r)
	case Owner:
		return h.CheckOwn(r.Attempt, r.Epoch)
	}
	return nil
}

// checkEpoch says whether r takes a new epoch.
func (h *History) checkEpoch(r Record) error {
	if r.Epoch <= h.epoch {
		return fmt.Errorf("%w: %s at %v after %v", ErrStaleEpoch, r.State, r.Epoch, h.epoch)
	}
	return nil
}

// add appends a record that check let pass.
func (h *History) add(r Record) {
	if h.last == nil {
		h.last = make(map[attempt.ID]Record)
	}
	h.records = append(h.records, r)
	h.last[r.Attempt] = r
	switch r.State {
	case Begun, Owner:
		h.epoch, h.current, h.open = r.Epoch, r.Attempt, r.Attempt
	case TakenBack:
		h.epoch = r.Epoch
		h.close(r.Attempt)
	case Aborted, Refused:
		h.close(r.Attempt)
	case Complete:
		h.close(r.Attempt)
		h.holds = true
	case Departed, Ended, Abandoned:
		h.close(r.Attempt)
		h.holds = false
	}
}

// close notes that an attempt is over, if it is the open one.
func (h *History) close(id attempt.ID) {
	if h.open == id {
		h.open = attempt.ID{}
	}
}

// fold builds a History of records, each of which must be legal after those before it.
func fold(records []Record) (*History, int, error) {
	h := new(History)
	for i, r := range records {
		if err := h.check(r); err != nil {
			return nil, i, err
		}
		h.add(r)
	}
	return h, 0, nil
}

// clone returns a History that does not change when h does.
func (h *History) clone() *History {
	out := *h
	out.records = slices.Clone(h.records)
	out.last = maps.Clone(h.last)
	return &out
}
