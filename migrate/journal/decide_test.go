package journal

import (
	"errors"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

func TestDecide(t *testing.T) {
	standings := append([]attempt.Standing{attempt.Unreachable}, attempt.Standings...)
	for state, want := range map[State][]Action{
		// in order:  unreachable prepared    owner     incomplete complete  refused   lost
		None:       {Nothing, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing},
		Begun:      {Abort, Abort, Operator, Operator, Operator, Abort, Operator},
		HandedOver: {Ask, SendCommit, Ask, Serve, Depart, TakeBack, Operator},
		Aborted:    {Resume, Resume, Operator, Operator, Operator, Resume, Operator},
		TakenBack:  {Resume, Resume, Operator, Operator, Operator, Resume, Operator},
		Departed:   {Destroy, Destroy, Destroy, Destroy, Destroy, Destroy, Destroy},
		Owner:      {Operator, Operator, Operator, Operator, Operator, Operator, Operator},
		"newer":    {Operator, Operator, Operator, Operator, Operator, Operator, Operator},
	} {
		for i, s := range standings {
			if got := Decide(state, s); got != want[i] {
				t.Errorf("%s, %s: %s, want %s", state, s, got, want[i])
			}
		}
		if got := Decide(HandedOver, "garbage"); got != Operator {
			t.Errorf("garbage: %s", got)
		}
	}
}

func TestTakeAndAnswer(t *testing.T) {
	const prepared, owner, incomplete, complete, refused, lost = attempt.Prepared, attempt.Owner, attempt.Incomplete,
		attempt.Complete, attempt.Refused, attempt.Lost
	reply := func(s attempt.Standing) Response { return Response{Reply: s} }
	refuse := Response{Write: Refused, Reply: refused}
	for _, test := range []struct {
		state        State
		copy         Copy
		take, answer Response
	}{
		{None, Absent, refuse, refuse},
		{None, Standby, Response{Write: Owner, Start: true, Reply: owner}, reply(prepared)},
		{None, Starting, reply(owner), reply(owner)},
		{Owner, Absent, reply(lost), reply(lost)},
		{Owner, Standby, reply(lost), reply(lost)},
		{Owner, Starting, reply(owner), reply(owner)},
		{Started, Absent, reply(lost), reply(lost)},
		{Started, Starting, reply(owner), reply(owner)},
		{Started, Running, reply(incomplete), reply(incomplete)},
		{Differs, Running, reply(incomplete), reply(incomplete)},
		{Differs, Absent, reply(lost), reply(lost)},
		{Complete, Running, reply(complete), reply(complete)},
		{Complete, Absent, reply(lost), reply(lost)},
		{Ended, Absent, reply(complete), reply(complete)},
		{Refused, Absent, reply(refused), reply(refused)},
		{Refused, Standby, reply(refused), reply(refused)},
		{Abandoned, Absent, reply(lost), reply(lost)},
		{HandedOver, Absent, reply(lost), reply(lost)},
	} {
		if got := Take(test.state, test.copy); got != test.take {
			t.Errorf("commit, %q, %q: %+v", test.state, test.copy, got)
		}
		if got := Answer(test.state, test.copy); got != test.answer {
			t.Errorf("query, %q, %q: %+v", test.state, test.copy, got)
		}
	}
}

func TestOnlyOneResponseStarts(t *testing.T) {
	for _, state := range append(stateNames, Differs, Ended, Abandoned) {
		for _, copy := range []Copy{Absent, Standby, Starting, Running} {
			for name, r := range map[string]Response{"commit": Take(state, copy), "query": Answer(state, copy)} {
				want := name == "commit" && state == None && copy == Standby
				if r.Start != want || r.Start && r.Write != Owner {
					t.Errorf("%s, %q, %q: %+v", name, state, copy, r)
				}
			}
		}
	}
}

func TestResolve(t *testing.T) {
	for _, test := range []struct {
		role   Role
		state  State
		choice Choice
		want   State
	}{
		{Source, HandedOver, KeepHere, TakenBack},
		{Source, HandedOver, GiveUpHere, Departed},
		{Target, Owner, GiveUpHere, Abandoned},
		{Target, Started, GiveUpHere, Abandoned},
		{Target, Differs, GiveUpHere, Abandoned},
		{Target, Complete, GiveUpHere, Abandoned},
	} {
		if got, err := Resolve(test.role, test.state, test.choice); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
	for _, state := range []State{None, Begun, Aborted, TakenBack, Departed, Refused, Ended, Abandoned} {
		for _, role := range []Role{Source, Target} {
			for _, choice := range []Choice{KeepHere, GiveUpHere, "both"} {
				if got, err := Resolve(role, state, choice); !errors.Is(err, ErrIllegal) {
					t.Errorf("%s %s %s: %s, %v", role, state, choice, got, err)
				}
			}
		}
	}
}
