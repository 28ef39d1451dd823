package migrate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A migrating command listens on a Unix socket, so that other commands can ask how it stands and cancel it: one line of JSON to it, one
// back.

// steerTimeout bounds a conversation on the socket.
const steerTimeout = 10 * time.Second

// maxSteerBytes bounds a line.
const maxSteerBytes = 64 << 10

type steerRequest struct {
	Cancel bool `json:"cancel"`
}

type steerAnswer struct {
	Event Event  `json:"event"`           // the newest
	Error string `json:"error,omitempty"` // why it cannot be cancelled
}

// Steering is the socket of a migration under way.
type Steering struct {
	Canceller

	path     string
	listener net.Listener

	newestMu sync.Mutex
	newest   Event // guarded by newestMu
}

// socketPath is the socket of a sandbox's migration.
func socketPath(dir, sandboxID string) string { return filepath.Join(dir, sandboxID+".sock") }

// Steer listens for other commands. Call it with the sandbox's journal open or before it: who comes second takes the
// socket over, and fails by the journal. The caller closes the Steering.
func Steer(dir, sandboxID string) (*Steering, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	path := socketPath(dir, sandboxID)
	if answer, err := ask(context.Background(), path, steerRequest{}); err == nil {
		return nil, fmt.Errorf("sandbox %q is migrating already (%s)", sandboxID, answer.Event.Phase)
	}
	os.Remove(path) // of a command that was killed
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for other commands: %w", err)
	}
	s := &Steering{path: path, listener: listener}
	go s.serve()
	return s, nil
}

// Note keeps the newest event, for those who ask.
func (s *Steering) Note(e Event) {
	s.newestMu.Lock()
	defer s.newestMu.Unlock()
	s.newest = e
}

// Close ends the listening.
func (s *Steering) Close() { s.listener.Close() }

func (s *Steering) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		go s.converse(conn)
	}
}

func (s *Steering) converse(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(steerTimeout))
	var request steerRequest
	line, err := readLine(conn)
	if err != nil || json.Unmarshal(line, &request) != nil {
		return
	}
	s.newestMu.Lock()
	answer := steerAnswer{Event: s.newest}
	s.newestMu.Unlock()
	if request.Cancel {
		if err := s.Cancel(); err != nil {
			answer.Error = err.Error()
		}
	}
	json.NewEncoder(conn).Encode(answer)
}

func readLine(r io.Reader) ([]byte, error) {
	return bufio.NewReader(io.LimitReader(r, maxSteerBytes)).ReadBytes('\n')
}

// ask asks the command that migrates a sandbox.
func ask(ctx context.Context, path string, request steerRequest) (steerAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, steerTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return steerAnswer{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(steerTimeout))
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return steerAnswer{}, err
	}
	var answer steerAnswer
	line, err := readLine(conn)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(line, &answer)
}

// ErrNotMigrating says that no command on this host migrates the sandbox.
var ErrNotMigrating = errors.New("no command migrates this sandbox")

// Progress returns the newest event of a migration under way on this host.
func Progress(ctx context.Context, dir, sandboxID string) (Event, error) {
	answer, err := ask(ctx, socketPath(dir, sandboxID), steerRequest{})
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrNotMigrating, err)
	}
	return answer.Event, nil
}

// Cancel cancels a migration under way on this host: after nil, the sandbox does not move.
func Cancel(ctx context.Context, dir, sandboxID string) error {
	answer, err := ask(ctx, socketPath(dir, sandboxID), steerRequest{Cancel: true})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotMigrating, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("%w (%s)", ErrTooLate, answer.Event.Phase)
	}
	return nil
}
