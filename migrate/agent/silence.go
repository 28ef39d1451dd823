package agent

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A link can be cut without a word: no reset, no end, only silence. What a host waits for then never comes, and a sandbox that
// is stopped would wait with it. So each end of every connection asks for signs of life.
const (
	// SilenceTimeout is how long a peer may leave sent bytes, or the question whether it is still there, unacknowledged by its
	// kernel, or a full window shut, before the connection is lost.
	SilenceTimeout = 10 * time.Second
	// probeInterval is how often a connection on which nothing is sent asks.
	probeInterval = 2 * time.Second
	// DialTimeout bounds a Dial, from the first packet to the answered preamble.
	DialTimeout = 10 * time.Second
)

// errDialTimeout is why a Dial that took too long has failed.
var errDialTimeout = fmt.Errorf("no answer within %v", DialTimeout)

// keepAlive asks an idle peer for a sign of life. The kernel gives up by SilenceTimeout, whatever Count says.
var keepAlive = net.KeepAliveConfig{
	Enable: true, Idle: probeInterval, Interval: probeInterval, Count: int(SilenceTimeout / probeInterval),
}

// boundSilence makes a connection that was accepted fail after SilenceTimeout. One that is not TCP, as in tests, is left alone.
func boundSilence(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(tcp.SetKeepAliveConfig(keepAlive), boundUnacknowledged("", "", raw))
}

// boundUnacknowledged is a net.Dialer's Control.
func boundUnacknowledged(_, _ string, raw syscall.RawConn) error {
	var optionErr error
	err := raw.Control(func(fd uintptr) {
		optionErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(SilenceTimeout.Milliseconds()))
	})
	if err = errors.Join(err, optionErr); err != nil {
		return fmt.Errorf("bound the silence of a connection: %w", err)
	}
	return nil
}
