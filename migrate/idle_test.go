package migrate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// A target that takes nothing and does not answer is not waited for without end, but longer where it makes a bundle durable.
func TestSourceGivesUpATargetThatHangs(t *testing.T) {
	_, conn := loopback(t)
	s := &source{idlePatience: 20 * time.Millisecond, link: &link{control: wire.NewControlConn(conn, wire.Source, attempt.ID{}), conn: conn, messages: make(chan wire.Message)}}
	for _, c := range []struct {
		bundle bool
		want   string
	}{{false, "for 20ms;"}, {true, "for 120ms;"}} {
		s.opts.SendBundle = c.bundle
		if err := s.takeFindings(t.Context(), s.planPatience()); err == nil || !strings.Contains(err.Error(), "target hangs") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the wait for findings ends with %v, want %q (after a bundle: %v)", err, c.want, c.bundle)
		}
	}
	if _, err := expectRunning[*wire.Placed](t.Context(), s, s.idlePatience); err == nil || !strings.Contains(err.Error(), "target hangs") {
		t.Errorf("the wait for a round ends with %v", err)
	}
}

// What is not taken is known of a connection: it is what fills it.
func TestUnacknowledged(t *testing.T) {
	_, conn := loopback(t)
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	for err := error(nil); err == nil; { // until it is full
		_, err = conn.Write(make([]byte, 1<<20))
	}
	if unacknowledged(conn) == 0 {
		t.Error("nothing is left on a connection that is full")
	}
}

// A target that takes a little of what was sent, again and again, is waited for.
func TestSlowTargetIsWaitedFor(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	left := 10 * idleLooks
	answered := errors.New("answered")
	endWhenIdle(ctx, cancel, 20*time.Millisecond, func() int {
		if left--; left == 0 {
			cancel(answered)
		}
		return left
	})
	if context.Cause(ctx) != answered {
		t.Errorf("the wait ends with %v, with %d left", context.Cause(ctx), left)
	}
}
