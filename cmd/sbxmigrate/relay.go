package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// outputGrace is how long the last output of a process that has ended may take
// to arrive, where something else inside keeps its terminal open.
const outputGrace = 200 * time.Millisecond

// endOfInput is what a person types (ctrl-D) to say that no more input comes.
const endOfInput = 4

// A relay carries bytes and window sizes between our own terminal and a
// console, and has our terminal in raw mode meanwhile: what is typed has its
// meaning inside, ctrl-C included.
type relay struct {
	master *os.File // can be given a deadline
	in     *os.File
	before *term.State // of our terminal; nil if in is none
	sizes  chan os.Signal
	output chan struct{} // closed when all output has been carried
}

// startRelay takes ownership of con's master end. The caller calls finish on
// every path, or the user's terminal stays raw.
func startRelay(con *console, in, out *os.File) (*relay, error) {
	fd, err := unix.FcntlInt(con.master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("relay terminal: %w", err)
	}
	con.master.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("relay terminal: %w", err)
	}
	r := &relay{
		master: os.NewFile(uintptr(fd), con.master.Name()), in: in,
		sizes: make(chan os.Signal, 1), output: make(chan struct{}),
	}
	if term.IsTerminal(int(in.Fd())) {
		if r.before, err = term.MakeRaw(int(in.Fd())); err != nil {
			r.master.Close()
			return nil, fmt.Errorf("relay terminal: %w", err)
		}
		signal.Notify(r.sizes, unix.SIGWINCH)
	}
	go r.carrySizes()
	go r.carryInput()
	go r.carryOutput(out)
	return r, nil
}

// finish carries what is left of the output and puts our terminal back into
// its mode. Call it when the process inside has ended.
func (r *relay) finish() {
	// Reading ends by itself once nobody inside has the terminal.
	r.master.SetReadDeadline(time.Now().Add(outputGrace))
	<-r.output
	if r.before != nil {
		signal.Stop(r.sizes)
		term.Restore(int(r.in.Fd()), r.before)
	}
	close(r.sizes)
	r.master.Close()
}

func (r *relay) carryOutput(out io.Writer) {
	defer close(r.output)
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.master.Read(buffer)
		if n > 0 && out != nil {
			if _, writeErr := out.Write(buffer[:n]); writeErr != nil {
				out = nil // keep reading, or the process inside would block
			}
		}
		if err != nil {
			return
		}
	}
}

// carryInput ends with our input; the read that is under way when the process
// inside ends is left behind.
func (r *relay) carryInput() {
	_, err := io.Copy(struct{ io.Writer }{r.master}, r.in)
	if err != nil || r.before != nil {
		return
	}
	// Input from a pipe has an end; on a terminal that is a character.
	r.master.Write([]byte{endOfInput})
}

func (r *relay) carrySizes() {
	for range r.sizes {
		// The host tells whoever leads the terminal's session (see standin.go).
		if size, err := terminalSize(r.in); err == nil {
			unix.IoctlSetWinsize(int(r.master.Fd()), unix.TIOCSWINSZ, size)
		}
	}
}

// terminalSize returns the window size of a terminal of ours.
func terminalSize(f *os.File) (*unix.Winsize, error) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil, err
	}
	if size.Row == 0 || size.Col == 0 {
		return nil, errors.New("terminal has no size")
	}
	return size, nil
}
