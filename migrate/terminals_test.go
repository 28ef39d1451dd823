package migrate

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// fakeTerminal notes what is done with it.
type fakeTerminal struct {
	rows   uint16
	pid    int32
	kept   bool
	closed bool
}

func (f *fakeTerminal) Slave() *os.File { return nil }

func (f *fakeTerminal) Keep(state *boot.TerminalState, pid int32) error {
	f.kept, f.rows, f.pid = true, state.Winsize.Row, pid
	return nil
}

func (f *fakeTerminal) Close() { f.closed = true }

func TestTerminalsAreKeptAsTheyWereInTheStop(t *testing.T) {
	state := func(rows uint16) *boot.TerminalState {
		s := new(boot.TerminalState)
		s.Winsize.Row = rows
		return s
	}
	saved, err := terminalsOf(&checkpoint.Stopped{Terminal: state(24), Sessions: []boot.Session{
		{Name: boot.RootContainer, Terminal: state(99)}, {Name: "root/exec/1", PID: 12, Terminal: state(50)}, {Name: "root/exec/2"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	main, exec, ended := new(fakeTerminal), new(fakeTerminal), new(fakeTerminal)
	ts := terminals{boot.RootContainer: {main, 0}, "root/exec/1": {exec, 12}, "root/exec/3": {ended, 14}}
	if err := ts.keep(saved); err != nil {
		t.Fatal(err)
	}
	if *main != (fakeTerminal{rows: 24, kept: true}) || *exec != (fakeTerminal{rows: 50, pid: 12, kept: true}) || *ended != (fakeTerminal{closed: true}) {
		t.Errorf("container's %+v, exec's %+v, one that ended %+v", main, exec, ended)
	}

	for name, bad := range map[string]wire.Terminal{
		"unknown":   {Session: "root/exec/9", State: json.RawMessage(`{}`)},
		"malformed": {Session: boot.RootContainer, State: json.RawMessage(`[]`)},
	} {
		left := new(fakeTerminal)
		if err := (terminals{boot.RootContainer: {left, 0}}).keep([]wire.Terminal{bad}); err == nil || !left.closed {
			t.Errorf("%s: %v, closed: %v", name, err, left.closed)
		}
	}
}
