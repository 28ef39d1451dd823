package migrate

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// Terminal is a new terminal on this host for a process that arrives. Whoever keeps
// it (see package sandbox/terminal) outlives this process.
type Terminal interface {
	// Slave returns the end for the process inside, once; it belongs to the caller.
	Slave() *os.File
	// Keep puts the terminal into a state and has it kept for a process of the
	// sandbox, which is loaded: its PID inside, 0 for the container's first.
	Keep(state *boot.TerminalState, pid int32) error
	// Close ends a terminal that is not kept. It may be called after Keep, and twice.
	Close()
}

// arrivingTerminal is a Terminal for a process.
type arrivingTerminal struct {
	Terminal
	pid int32
}

// terminals are those of a sandbox that arrives, by session.
type terminals map[string]arrivingTerminal

// containerTerminal is the session of the container's own terminal.
var containerTerminal = boot.Session{Name: boot.RootContainer}

// openTerminal makes a terminal and returns its slave end, owned by the caller. log,
// which may be nil, is the terminal's.
func (r *Receiver) openTerminal(id string, session boot.Session, log *os.File, into terminals) (*os.File, error) {
	t, err := r.OpenTerminal(id, log)
	if err != nil {
		return nil, fmt.Errorf("open terminal of %q: %w", id, err)
	}
	into[session.Name] = arrivingTerminal{t, session.PID}
	return t.Slave(), nil
}

// keep has the terminals kept that the saved kernel still has, and closes the others.
func (ts terminals) keep(saved []wire.Terminal) error {
	defer ts.close()
	for _, s := range saved {
		t, ok := ts[s.Session]
		if !ok {
			return fmt.Errorf("source hands over terminal %q, which its plan did not have", firstBytes(s.Session, maxNameBytes))
		}
		var state boot.TerminalState
		if err := json.Unmarshal(s.State, &state); err != nil {
			return fmt.Errorf("state of terminal %q: %w", s.Session, err)
		}
		if err := t.Keep(&state, t.pid); err != nil {
			return fmt.Errorf("terminal %q: %w", s.Session, err)
		}
		delete(ts, s.Session)
	}
	return nil
}

// maxNameBytes is how much of a name that a peer made up is told.
const maxNameBytes = 64

// close closes those that are not kept.
func (ts terminals) close() {
	for _, t := range ts {
		t.Close()
	}
	clear(ts)
}

// terminalsOf returns the terminals of a kernel that is stopped, as they are now.
func terminalsOf(stopped *checkpoint.Stopped) ([]wire.Terminal, error) {
	list := []wire.Terminal{}
	add := func(session string, state *boot.TerminalState) error {
		data, err := json.Marshal(state)
		if err != nil {
			return fmt.Errorf("describe terminal: %w", err)
		}
		list = append(list, wire.Terminal{Session: session, State: data})
		return nil
	}
	if stopped.Terminal != nil {
		if err := add(boot.RootContainer, stopped.Terminal); err != nil {
			return nil, err
		}
	}
	for _, s := range stopped.Sessions {
		if s.Terminal == nil || s.Name == boot.RootContainer {
			continue
		}
		if err := add(s.Name, s.Terminal); err != nil {
			return nil, err
		}
	}
	return list, nil
}
