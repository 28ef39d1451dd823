package agent

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// Both ends of a connection notice a peer that has gone silent. That they do so in time shows where a real link is cut: in e2e.
func TestBothEndsBoundSilence(t *testing.T) {
	accepted := make(chan net.Conn, 1)
	f := start(t, Limits{}, func(_ context.Context, s *Session) {
		accepted <- s.Conn
		s.Control.Receive() // until the peer hangs up
	}, nil)
	dialled, err := Dial(context.Background(), f.address, f.client, f.server, wire.Preamble{Kind: wire.KindControl, Attempt: attempt.New()})
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	target := (<-accepted).(*seatedConn).Conn.(*tls.Conn)
	for end, conn := range map[string]*tls.Conn{"source": dialled, "target": target} {
		want := map[int]int{
			unix.TCP_USER_TIMEOUT: int(SilenceTimeout.Milliseconds()),
			unix.TCP_KEEPIDLE:     int(probeInterval.Seconds()), unix.TCP_KEEPINTVL: int(probeInterval.Seconds()),
		}
		for option, value := range want {
			if got := socketOption(t, conn.NetConn(), unix.IPPROTO_TCP, option); got != value {
				t.Errorf("%s: TCP option %d is %d, want %d", end, option, got, value)
			}
		}
		if socketOption(t, conn.NetConn(), unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 {
			t.Errorf("%s: an idle connection asks for no sign of life", end)
		}
	}
}

func socketOption(t *testing.T, conn net.Conn, level, option int) (value int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optionErr error
	if err := raw.Control(func(fd uintptr) { value, optionErr = unix.GetsockoptInt(int(fd), level, option) }); err != nil || optionErr != nil {
		t.Fatal(err, optionErr)
	}
	return value
}
