package gofer

import (
	"fmt"
	"io"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/fsgofer"
)

// maxLogBytes bounds what a gofer logs in its life: a guest can provoke
// warnings for ever, with file names of its choice.
const maxLogBytes = 1 << 20

// server is a lisafs server with a connection for each mount.
type server struct {
	lisafs      *lisafs.Server
	connections []*lisafs.Connection
}

// newServer takes over the sockets. Nothing is answered before serve.
func newServer(cfg *childConfig, h *handed) (*server, error) {
	log.SetLevel(log.Warning)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: &boundedWriter{to: os.Stderr, left: maxLogBytes}}})
	s := &server{lisafs: lisafs.NewServer()}
	for i, m := range cfg.Mounts {
		socket, err := unet.NewSocket(h.mounts[i].socket)
		if err != nil {
			return nil, fmt.Errorf("socket of mount %d: %w", i, err)
		}
		// Host sockets and FIFOs stay closed to the sandbox: the zero values.
		impl := fsgofer.NewConnectionImpl(&fsgofer.Config{DonateMountPointFD: m.DirectFS})
		c, err := s.lisafs.CreateConnection(socket, mountPath(i), fsgofer.ConnectionOpts(m.ReadOnly), impl)
		if err != nil {
			return nil, fmt.Errorf("connection of mount %d: %w", i, err)
		}
		s.connections = append(s.connections, c)
	}
	return s, nil
}

// serve answers requests until every connection has ended.
func (s *server) serve() {
	for _, c := range s.connections {
		s.lisafs.StartConnection(c)
	}
	s.lisafs.Wait()
	s.lisafs.Destroy()
}

// boundedWriter passes left bytes on and drops the rest.
type boundedWriter struct {
	to io.Writer

	mu   sync.Mutex
	left int
}

// Write implements io.Writer. It never fails, or the logger would report that.
func (w *boundedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(p), w.left)
	w.left -= n
	w.to.Write(p[:n])
	return len(p), nil
}
