package agent

import (
	"net"
	"sync"
)

// guest is a connection that has not proved anything yet.
type guest struct {
	conn    net.Conn
	address string // without port
}

// lobby holds a bounded number of guests.
type lobby struct {
	size int

	mu sync.Mutex
	// guests are in the order of their arrival. Guarded by mu.
	guests []*guest
	closed bool
}

// enter lets a connection in. When the lobby is full it first closes the oldest one of the address that has the most.
// It reports whether somebody was put out.
func (l *lobby) enter(conn net.Conn) (g *guest, evicted bool) {
	g = &guest{conn: conn, address: hostOf(conn.RemoteAddr())}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return g, false
	}
	if len(l.guests) >= l.size {
		at := l.victim()
		l.guests[at].conn.Close()
		l.guests = append(l.guests[:at], l.guests[at+1:]...)
		evicted = true
	}
	l.guests = append(l.guests, g)
	return g, evicted
}

// victim returns the index of the guest to put out. The lobby is not empty.
func (l *lobby) victim() int {
	count := make(map[string]int)
	most := 0
	for _, g := range l.guests {
		count[g.address]++
		most = max(most, count[g.address])
	}
	for i, g := range l.guests {
		if count[g.address] == most {
			return i
		}
	}
	return 0
}

// leave takes a guest out, whatever became of it. It reports whether the guest was still there; if not, its connection
// has been closed.
func (l *lobby) leave(g *guest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.guests {
		if l.guests[i] == g {
			l.guests = append(l.guests[:i], l.guests[i+1:]...)
			return true
		}
	}
	return false
}

// close puts everybody out, and everybody who comes.
func (l *lobby) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, g := range l.guests {
		g.conn.Close()
	}
	l.guests = nil
}

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
