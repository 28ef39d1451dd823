package boot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// TerminalState is what a host terminal keeps for a guest and a new one must
// be given: line discipline and window size.
type TerminalState struct {
	Termios unix.Termios `json:"termios"`
	Winsize unix.Winsize `json:"winsize"`
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// readTerminal returns the state of the terminal fd, or nil if it is none.
func readTerminal(fd int) *TerminalState {
	termios, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil
	}
	state := &TerminalState{Termios: *termios}
	if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
		state.Winsize = *ws
	}
	return state
}

// Apply puts the terminal of which fd is an end into the saved state. A window size
// of zero (the saved terminal had none) leaves fd's own.
func (t *TerminalState) Apply(fd int) error {
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t.Termios); err != nil {
		return fmt.Errorf("set terminal attributes: %w", err)
	}
	if t.Winsize.Row == 0 && t.Winsize.Col == 0 {
		return nil
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &t.Winsize); err != nil {
		return fmt.Errorf("set window size: %w", err)
	}
	return nil
}
