package agent

import (
	"fmt"
	"sync"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// Limits bound what peers can make this host spend. A field that is 0 or less takes its default.
type Limits struct {
	Connections        int           // of trusted peers, all together; 512
	ConnectionsPerPeer int           // 4 attempts with all their data connections
	Handshakes         int           // connections in the lobby; 64
	HandshakeTimeout   time.Duration // from accept to preamble; 10 s
	Migrations         int           // arriving at a time; 4
	MemoryBytes        uint64        // of all sandboxes that are arriving; no bound
	Grace              time.Duration // that sessions have to end when the agent stops; 30 s
}

func (l Limits) withDefaults() Limits {
	setInt := func(p *int, value int) {
		if *p <= 0 {
			*p = value
		}
	}
	setInt(&l.Connections, 512)
	setInt(&l.ConnectionsPerPeer, 4*(wire.MaxDataConnections+1))
	setInt(&l.Handshakes, 64)
	setInt(&l.Migrations, 4)
	if l.HandshakeTimeout <= 0 {
		l.HandshakeTimeout = 10 * time.Second
	}
	if l.Grace <= 0 {
		l.Grace = 30 * time.Second
	}
	if l.MemoryBytes == 0 {
		l.MemoryBytes = 1<<64 - 1
	}
	return l
}

// LimitError says which limit is reached. The peer may try again later.
type LimitError struct {
	Limit string // connections, peer_connections, migrations or memory
	Max   uint64
}

func (e *LimitError) Error() string { return fmt.Sprintf("limit on %s is reached: %d", e.Limit, e.Max) }

// seats counts what peers hold.
type seats struct {
	limits Limits

	mu sync.Mutex
	// connections, perPeer, migrations and memoryBytes are what is taken. Guarded by mu.
	connections int
	perPeer     map[string]int
	migrations  int
	memoryBytes uint64
}

// connect takes a seat for a connection of a peer. The caller calls release once, when it is closed.
func (s *seats) connect(peer string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connections >= s.limits.Connections {
		return nil, &LimitError{"connections", uint64(s.limits.Connections)}
	}
	if s.perPeer[peer] >= s.limits.ConnectionsPerPeer {
		return nil, &LimitError{"peer_connections", uint64(s.limits.ConnectionsPerPeer)}
	}
	s.connections++
	s.perPeer[peer]++
	return func() { s.disconnect(peer) }, nil
}

func (s *seats) disconnect(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections--
	if s.perPeer[peer]--; s.perPeer[peer] == 0 {
		delete(s.perPeer, peer)
	}
}

// admit changes what a migration holds from one amount of memory to another; fresh says that it holds nothing yet.
func (s *seats) admit(fresh bool, from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh && s.migrations >= s.limits.Migrations {
		return &LimitError{"migrations", uint64(s.limits.Migrations)}
	}
	others := s.memoryBytes - from
	if to > s.limits.MemoryBytes || others > s.limits.MemoryBytes-to {
		return &LimitError{"memory", s.limits.MemoryBytes}
	}
	s.memoryBytes = others + to
	if fresh {
		s.migrations++
	}
	return nil
}

// dismiss takes back everything that admit gave a migration.
func (s *seats) dismiss(bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.migrations--
	s.memoryBytes -= bytes
}
