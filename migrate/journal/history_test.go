package journal

import (
	"errors"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// rec makes a record of an attempt that is named by a number.
func rec(role Role, s State, id byte, epoch attempt.Epoch) Record {
	return Record{Role: role, State: s, Attempt: attempt.ID{id}, Epoch: epoch}
}

func TestHistories(t *testing.T) {
	for name, records := range map[string][]Record{
		"a move": {rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1), rec(Source, Departed, 1, 1)},
		"refused, aborted, moved": {
			rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1), rec(Source, TakenBack, 1, 2),
			rec(Source, Begun, 2, 3), rec(Source, Aborted, 2, 3),
			rec(Source, Begun, 3, 4), rec(Source, HandedOver, 3, 4), rec(Source, Departed, 3, 4),
		},
		"away and back and away": {
			rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1), rec(Source, Departed, 1, 1),
			rec(Target, Owner, 2, 2), rec(Target, Started, 2, 2), rec(Target, Complete, 2, 2),
			rec(Source, Begun, 3, 3), rec(Source, HandedOver, 3, 3), rec(Source, Departed, 3, 3),
			rec(Target, Owner, 4, 9),
		},
		"refusals do not count": {rec(Target, Refused, 1, 7), rec(Target, Refused, 2, 3), rec(Target, Owner, 3, 1)},
		"a start that failed":   {rec(Target, Owner, 1, 1), rec(Target, Refused, 1, 1), rec(Target, Owner, 2, 2)},
		"differs":               {rec(Target, Owner, 1, 1), rec(Target, Started, 1, 1), rec(Target, Differs, 1, 1), rec(Target, Abandoned, 1, 1), rec(Target, Owner, 2, 2)},
		"abandoned":             {rec(Target, Owner, 1, 1), rec(Target, Abandoned, 1, 1), rec(Target, Owner, 2, 2)},
		"ended and comes again": {
			rec(Target, Owner, 1, 1), rec(Target, Started, 1, 1), rec(Target, Complete, 1, 1), rec(Target, Ended, 1, 1),
			rec(Target, Owner, 2, 2),
		},
	} {
		if _, at, err := fold(records); err != nil {
			t.Errorf("%s: record %d: %v", name, at, err)
		}
	}
}

func TestHistoryRefuses(t *testing.T) {
	here := []Record{rec(Target, Owner, 1, 5), rec(Target, Started, 1, 5), rec(Target, Complete, 1, 5)}
	for _, test := range []struct {
		name   string
		before []Record
		record Record
		want   error
	}{
		{"handover out of nothing", nil, rec(Source, HandedOver, 1, 1), ErrIllegal},
		{"start without owner", nil, rec(Target, Started, 1, 1), ErrIllegal},
		{"no epoch", nil, rec(Source, Begun, 1, 0), ErrIllegal},
		{"no attempt", nil, rec(Source, Begun, 0, 1), ErrIllegal},
		{"handover after abort", []Record{rec(Source, Begun, 1, 1), rec(Source, Aborted, 1, 1)}, rec(Source, HandedOver, 1, 1), ErrIllegal},
		{"abort after handover", []Record{rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1)}, rec(Source, Aborted, 1, 1), ErrIllegal},
		{"owner after refusal", []Record{rec(Target, Refused, 1, 1)}, rec(Target, Owner, 1, 1), ErrIllegal},
		{"refusal after start", here[:2], rec(Target, Refused, 1, 5), ErrIllegal},
		{"complete although it differs", append(slices.Clip(here[:2]), rec(Target, Differs, 1, 5)), rec(Target, Complete, 1, 5), ErrIllegal},
		{"onwards although it differs", append(slices.Clip(here[:2]), rec(Target, Differs, 1, 5)), rec(Source, Begun, 2, 6), ErrOpenAttempt},
		{"an attempt with itself", []Record{rec(Source, Begun, 1, 1)}, rec(Target, Owner, 1, 2), ErrIllegal},
		{"another epoch", []Record{rec(Source, Begun, 1, 1)}, rec(Source, HandedOver, 1, 2), ErrIllegal},
		{"second attempt at a time", []Record{rec(Source, Begun, 1, 1)}, rec(Source, Begun, 2, 2), ErrOpenAttempt},
		{"attempt after lost answer", []Record{rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1)}, rec(Source, Begun, 2, 2), ErrOpenAttempt},
		{"onwards before all pages", here[:2], rec(Source, Begun, 2, 6), ErrOpenAttempt},
		{"arrives where it lives", here, rec(Target, Owner, 2, 6), ErrOpenAttempt},
		{"burned epoch", []Record{rec(Source, Begun, 1, 1), rec(Source, Aborted, 1, 1)}, rec(Source, Begun, 2, 1), ErrStaleEpoch},
		{"take-back at the same epoch", []Record{rec(Source, Begun, 1, 1), rec(Source, HandedOver, 1, 1)}, rec(Source, TakenBack, 1, 1), ErrStaleEpoch},
		{"commit from the past", []Record{rec(Source, Begun, 1, 5), rec(Source, Aborted, 1, 5)}, rec(Target, Owner, 2, 4), ErrStaleEpoch},
	} {
		h, at, err := fold(test.before)
		if err != nil {
			t.Fatalf("%s: record %d: %v", test.name, at, err)
		}
		if err := h.check(test.record); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestHistoryTells(t *testing.T) {
	h := new(History)
	if _, ok := h.Current(); ok || h.Epoch() != 0 || h.Last(attempt.ID{1}).State != None {
		t.Fatal("an empty history tells something")
	}
	h.add(rec(Source, Begun, 1, 4))
	before := h.clone()
	h.add(rec(Source, HandedOver, 1, 4))
	h.add(rec(Target, Refused, 2, 9))
	if r, ok := h.Unfinished(); !ok || r.State != HandedOver {
		t.Fatal(r, ok)
	}
	h.add(rec(Source, TakenBack, 1, 5))
	if _, ok := h.Unfinished(); ok {
		t.Fatal("taken back and unfinished")
	}
	if r, ok := h.Current(); !ok || r.State != TakenBack || h.Epoch() != 5 {
		t.Fatal(r, ok, h.Epoch())
	}
	if r, _ := before.Current(); r.State != Begun || len(before.Records()) != 1 {
		t.Fatal("a clone changed")
	}
}
