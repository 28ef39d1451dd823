package migrate

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// idlePatience is how long a target may give no answer and take nothing of what was sent to it, while the sandbox runs here and a
// person can cancel. That is for one that hangs with everything taken: where its host has no room for what is left, or is cut off, the
// connection is lost by agent.SilenceTimeout.
const idlePatience = 5 * time.Minute

// durableFactor is how many times as long the answer to a plan may take after a bundle: the target makes that durable first, and with it
// whatever else has been written to the same file system.
const durableFactor = 6

// idleLooks is how often that is looked at meanwhile.
const idleLooks = 20

// planPatience is idlePatience for the answer to a plan.
func (s *source) planPatience() time.Duration {
	if s.opts.SendBundle {
		return durableFactor * s.idlePatience
	}
	return s.idlePatience
}

// expectRunning is expect while the sandbox runs here.
func expectRunning[M wire.Message](ctx context.Context, s *source, patience time.Duration) (M, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conns := s.connections()
	go endWhenIdle(ctx, cancel, patience, func() (bytes int) {
		for _, conn := range conns {
			bytes += unacknowledged(conn)
		}
		return bytes
	})
	return expect[M](ctx, s.link)
}

// endWhenIdle cancels a context when a peer has taken nothing for too long: what it has not taken yet stays the same.
func endWhenIdle(ctx context.Context, cancel context.CancelCauseFunc, patience time.Duration, left func() int) {
	ticker := time.NewTicker(patience / idleLooks)
	defer ticker.Stop()
	last, since := left(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if next := left(); next != last {
				last, since = next, now
			} else if now.Sub(since) >= patience {
				cancel(fmt.Errorf("target hangs: it has neither answered nor taken anything for %v; see its agent's log", patience))
				return
			}
		}
	}
}

// connections are all to the target.
func (s *source) connections() []net.Conn {
	conns := []net.Conn{s.link.conn}
	if s.lanes != nil {
		for _, l := range s.lanes.list {
			conns = append(conns, l.conn)
		}
	}
	return conns
}

// unacknowledged is how much of what was sent the target's host has not taken yet, in bytes; 0 where that is not known.
func unacknowledged(conn net.Conn) (bytes int) {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			bytes = n
		}
	})
	return bytes
}
