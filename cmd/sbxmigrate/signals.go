package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that a foreground command passes on to the process
// inside. Job control (TSTP, TTIN, TTOU, CONT) stays with the command.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
}

// A signalCatcher holds on to signals that would end the command: first they
// cancel what is under way, later they are passed on.
type signalCatcher struct {
	caught chan os.Signal
	cancel context.CancelCauseFunc
	turn   chan func(unix.Signal) // what to do from now on
}

// catchSignals returns a context that ends with errInterrupted as its cause
// when a signal asks the command to end before forward is called. The caller
// calls stop.
func catchSignals(ctx context.Context) (context.Context, *signalCatcher) {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &signalCatcher{
		caught: make(chan os.Signal, 32), cancel: cancel, turn: make(chan func(unix.Signal)),
	}
	// A broken pipe is an error of a write, not the end of us: a terminal may
	// have to be put back into its mode.
	signal.Notify(c.caught, append([]os.Signal{unix.SIGPIPE}, forwarded...)...)
	go c.run()
	return ctx, c
}

func (c *signalCatcher) run() {
	var early []unix.Signal // caught before there was anybody to pass them to
	send := func(s unix.Signal) {
		if len(early) < cap(c.caught) {
			early = append(early, s)
		}
		switch s {
		case unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT:
			c.cancel(fmt.Errorf("%w by %s", errInterrupted, unix.SignalName(s)))
		}
	}
	for {
		select {
		case s, open := <-c.caught:
			if !open {
				return
			}
			if s != unix.SIGPIPE {
				send(s.(unix.Signal))
			}
		case send = <-c.turn:
			for _, s := range early {
				send(s)
			}
			early = nil
		}
	}
}

// forward passes signals to send, those that were caught before first.
func (c *signalCatcher) forward(send func(unix.Signal)) { c.turn <- send }

func (c *signalCatcher) stop() {
	signal.Stop(c.caught)
	close(c.caught)
	c.cancel(nil)
}

// interruption returns the reason that ctx ended in place of err, which only
// says that it did.
func interruption(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// parseSignal understands numbers and names, with or without SIG, in upper or
// lower case, and RTMIN+N and RTMAX-N.
func parseSignal(text string) (unix.Signal, error) {
	const minRealTime, maxRealTime = 34, 64 // what the C library leaves to programs
	if n, err := strconv.Atoi(text); err == nil {
		if n < 0 || n > maxRealTime { // 0 asks whether the process is there
			return 0, usageError("signal %d is not one: want 0 to %d", n, maxRealTime)
		}
		return unix.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	for number := minRealTime; number <= maxRealTime; number++ {
		if name == realTimeName(number-minRealTime, "SIGRTMIN", "+") || name == realTimeName(maxRealTime-number, "SIGRTMAX", "-") {
			return unix.Signal(number), nil
		}
	}
	return 0, usageError("signal %q is not known", text)
}

func realTimeName(offset int, base, sign string) string {
	if offset == 0 {
		return base
	}
	return base + sign + strconv.Itoa(offset)
}
