package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// demoPace is the client's pause between rounds of requests.
const demoPace = time.Millisecond

// demoAnswerTimeout is how long the client waits for an answer before it calls
// the connection lost. It bounds the demo, not the gap that a move may make.
const demoAnswerTimeout = time.Minute

// errDemoMismatch says that the server answered, and not with what it was told
// before.
var errDemoMismatch = errors.New("wrong answer")

// demoClient asks a demoStore over one connection and checks every answer: it
// knows what the store began with and keeps a record of what it wrote.
type demoClient struct {
	conn    net.Conn
	answers *bufio.Reader

	count    int64    // what the counter must be
	versions []uint32 // how often each key has been written
	digest   demoDigest

	answered atomic.Int64 // right answers
	// lastAnswer and longestGap are between answers; run's.
	lastAnswer time.Time
	longestGap time.Duration
}

// newDemoClient is a client of a store that begins with so many keys. The caller
// closes conn.
func newDemoClient(conn net.Conn, keys int) *demoClient {
	c := &demoClient{conn: conn, answers: bufio.NewReaderSize(conn, maxDemoLineBytes), versions: make([]uint32, keys)}
	for i := range keys {
		c.digest.add(demoKey(i), demoValue(i, 0))
	}
	return c
}

// run asks until stop is closed, and returns the first thing that was wrong.
func (c *demoClient) run(stop <-chan struct{}) error {
	c.lastAnswer = time.Now()
	for {
		select {
		case <-stop:
			return nil
		case <-time.After(demoPace):
		}
		for _, request := range []func() error{c.increment, c.set, c.get} {
			if err := request(); err != nil {
				return fmt.Errorf("client: request %d: %w", c.answered.Load()+1, err)
			}
			now := time.Now()
			c.longestGap = max(c.longestGap, now.Sub(c.lastAnswer))
			c.lastAnswer = now
		}
	}
}

func (c *demoClient) increment() error {
	old := strconv.AppendInt(nil, c.count, 10)
	c.count++
	next := strconv.AppendInt(nil, c.count, 10)
	if err := c.ask("INCR "+demoCounter, nil, next); err != nil {
		return err
	}
	if c.count > 1 {
		c.digest.add(demoCounter, old)
	}
	c.digest.add(demoCounter, next)
	return nil
}

// set writes some key anew.
func (c *demoClient) set() error {
	i := rand.IntN(len(c.versions))
	old, next := demoValue(i, c.versions[i]), demoValue(i, c.versions[i]+1)
	if err := c.ask("SET "+demoKey(i)+" ", next, []byte("OK")); err != nil {
		return err
	}
	c.versions[i]++
	c.digest.add(demoKey(i), old)
	c.digest.add(demoKey(i), next)
	return nil
}

func (c *demoClient) get() error {
	i := rand.IntN(len(c.versions))
	return c.ask("GET "+demoKey(i), nil, append([]byte("VALUE "), demoValue(i, c.versions[i])...))
}

// verify compares all keys of the store with what the client knows.
func (c *demoClient) verify() error {
	keys := len(c.versions)
	if c.count > 0 {
		keys++
	}
	if err := c.ask("DIGEST", nil, fmt.Appendf(nil, "%d %v", keys, &c.digest)); err != nil {
		return fmt.Errorf("client: digest of all keys: %w", err)
	}
	return nil
}

// ask sends a request and waits for its answer, which must be want.
func (c *demoClient) ask(request string, value, want []byte) error {
	if err := c.conn.SetDeadline(time.Now().Add(demoAnswerTimeout)); err != nil {
		return err
	}
	line := append(append([]byte(request), value...), '\n')
	if _, err := c.conn.Write(line); err != nil {
		return err
	}
	answer, err := c.answers.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	if answer = answer[:len(answer)-1]; !bytes.Equal(answer, want) {
		return fmt.Errorf("%w: %s: got %s, want %s", errDemoMismatch, request, excerpt(answer), excerpt(want))
	}
	c.answered.Add(1)
	return nil
}

// excerpt is an answer for an error message.
func excerpt(answer []byte) string {
	const maxBytes = 80
	if len(answer) > maxBytes {
		return fmt.Sprintf("%q… (%d bytes)", answer[:maxBytes], len(answer))
	}
	return fmt.Sprintf("%q", answer)
}

// awaitAnswers returns when the client has had so many more right answers from
// the server whose output is given.
func (c *demoClient) awaitAnswers(ctx context.Context, more int64, from *serverOutput) error {
	for target := c.answered.Load() + more; c.answered.Load() < target; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-from.ended:
			return from.endError()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
