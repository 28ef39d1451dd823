package redis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServer answers SET with OK, GET with what was set and everything else with an error, for so many commands on each connection; later
// ones are read and not answered.
type fakeServer struct {
	listener net.Listener
	patience int

	mu     sync.Mutex
	values map[string]string
}

func newFakeServer(t *testing.T, commands int) *fakeServer {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	s := &fakeServer{listener: listener, patience: commands, values: map[string]string{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s
}

func (s *fakeServer) dial() (*Client, error) {
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	return NewClient(conn), nil
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for n := 0; ; n++ {
		words, err := readCommand(r)
		if err != nil {
			return
		}
		if n < s.patience {
			io.WriteString(conn, s.answer(words))
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	var count int
	if _, err := fmt.Fscanf(r, "*%d\r\n", &count); err != nil {
		return nil, err
	}
	words := make([]string, count)
	for i := range words {
		var size int
		if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		words[i] = string(word[:size])
	}
	return words, nil
}

func (s *fakeServer) answer(words []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch words[0] {
	case "SET":
		s.values[words[1]] = words[2]
		return "+OK\r\n"
	case "GET":
		value, ok := s.values[words[1]]
		if !ok {
			return "$-1\r\n"
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)
	}
	return "-ERR unknown\r\n"
}

const forever = 1 << 30

func TestClient(t *testing.T) {
	c, err := newFakeServer(t, forever).dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Fill(300, 100); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"key:1": strings.Repeat("\x01", 100), "key:299": strings.Repeat("\x2b", 100)} {
		if got, err := c.Ask("GET", key); err != nil || got != want {
			t.Errorf("%s is %q, want %q: %v", key, got, want, err)
		}
	}
	if got, err := c.Ask("GET", "key:0"); err != nil || len(got) != 100 {
		t.Errorf("key:0 has %d bytes: %v", len(got), err)
	}
	for _, words := range [][]string{{"GET", "key:300"}, {"NONSENSE"}} {
		if got, err := c.Ask(words...); err == nil {
			t.Errorf("%q is answered with %q", words, got)
		}
	}
}

func TestReplyIsBounded(t *testing.T) {
	for _, reply := range []string{"$99999999999\r\n", "$-2\r\n", "$x\r\n", "\r\n"} {
		near, far := net.Pipe()
		go func() {
			io.WriteString(far, reply)
			far.Close()
		}()
		if got, err := NewClient(near).Reply(); err == nil {
			t.Errorf("%q gives %q", reply, got)
		}
		near.Close()
	}
}

// eventually waits for so many writes.
func eventually(t *testing.T, w *Writer, writes int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); w.Acknowledged() < writes; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d writes, want %d", w.Acknowledged(), writes)
		}
	}
}

// A connection that gives no answer is given up for another, no write is left out, and the gap covers the wait.
func TestWriterReopens(t *testing.T) {
	const patience = 50 * time.Millisecond
	s := newFakeServer(t, 20)
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	w := Write(c, WriterOptions{Reopen: s.dial, Patience: patience})
	eventually(t, w, 50)
	seen, err := w.End()
	if err != nil {
		t.Fatal(err)
	}
	if seen.Lost < 2 || seen.LongestGap < patience {
		t.Errorf("lost %d connections, longest gap %v; want at least 2, and %v", seen.Lost, seen.LongestGap, patience)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := int64(1); n <= seen.Acknowledged; n++ {
		if got := s.values[fmt.Sprintf("written:%d", n)]; got != fmt.Sprint(n) {
			t.Errorf("write %d of %d is %q", n, seen.Acknowledged, got)
		}
	}
}

// Without another connection to open, a lost one ends the writer.
func TestWriterEnds(t *testing.T) {
	s := newFakeServer(t, forever)
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	w := Write(c, WriterOptions{})
	eventually(t, w, 10)
	c.Close()
	<-w.Done() // or End may come between two writes
	if seen, err := w.End(); err == nil || seen.Acknowledged < 10 {
		t.Errorf("after %d writes the writer ends with %v", seen.Acknowledged, err)
	}
}

// Without another connection to open, a server that is silent ends the writer, too.
func TestWriterEndsWithoutAnswer(t *testing.T) {
	c, err := newFakeServer(t, 10).dial()
	if err != nil {
		t.Fatal(err)
	}
	w := Write(c, WriterOptions{Limit: 50 * time.Millisecond})
	<-w.Done()
	if seen, err := w.End(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %d writes the writer ends with %v", seen.Acknowledged, err)
	}
}
