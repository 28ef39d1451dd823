package redis

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// WriterKeys is how many keys a Writer uses in turn.
const WriterKeys = 10_000

// WriterOptions say how a Writer writes.
type WriterOptions struct {
	PerSecond int // at most; default 1,000

	// Limit is how long a Writer without Reopen waits for an answer; default: a minute.
	Limit time.Duration

	// Reopen opens another connection when the one in use failed, or gave no answer for Patience (default: 200 ms). It is called
	// again and again until a connection comes, and should fail soon. Without it, a lost connection ends the Writer with an error.
	Reopen   func() (*Client, error)
	Patience time.Duration
}

// A Writer sets one key after the other, each to its number, one at a time, and notes the longest time without an answer.
type Writer struct {
	options    WriterOptions
	client     *Client
	stop, done chan struct{}

	mu     sync.Mutex
	result WriterResult
	err    error
	last   time.Time
}

// A WriterResult is what a Writer saw.
type WriterResult struct {
	Acknowledged int64
	Lost         int           // connections
	LongestGap   time.Duration // between two acknowledged writes, one after the other
}

// Write starts a Writer on a connection of its own, which it closes in the end.
func Write(c *Client, o WriterOptions) *Writer {
	if o.PerSecond == 0 {
		o.PerSecond = 1000
	}
	if o.Patience == 0 {
		o.Patience = 200 * time.Millisecond
	}
	if o.Limit == 0 {
		o.Limit = time.Minute
	}
	w := &Writer{options: o, client: c, stop: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go w.run()
	return w
}

// Acknowledged returns how many writes have been by now.
func (w *Writer) Acknowledged() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.result.Acknowledged
}

// Done is closed when the Writer has ended, by itself or by End.
func (w *Writer) Done() <-chan struct{} { return w.done }

// End stops the Writer and returns what it saw.
func (w *Writer) End() (WriterResult, error) {
	close(w.stop)
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.result, w.err
}

func (w *Writer) run() {
	defer close(w.done)
	defer func() { w.client.Close() }()
	ticker := time.NewTicker(time.Second / time.Duration(w.options.PerSecond))
	defer ticker.Stop()
	for n := int64(1); ; n++ {
		if err := w.write(n); err != nil {
			w.mu.Lock()
			w.err = fmt.Errorf("write %d: %w", n, err)
			w.mu.Unlock()
			return
		}
		w.acknowledge(time.Now())
		select {
		case <-w.stop:
			return
		case <-ticker.C:
		}
	}
}

func (w *Writer) acknowledge(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.LongestGap = max(w.result.LongestGap, now.Sub(w.last))
	w.result.Acknowledged++
	w.last = now
}

// errStopped ends a write that will get no answer any more.
var errStopped = errors.New("stopped while it waited for an answer")

// write sets one key, on other connections if need be.
func (w *Writer) write(n int64) error {
	if w.options.Reopen == nil {
		w.client.conn.SetDeadline(time.Now().Add(w.options.Limit))
		return w.client.set(n)
	}
	for {
		w.client.conn.SetDeadline(time.Now().Add(w.options.Patience))
		if err := w.client.set(n); err == nil {
			return nil
		}
		w.mu.Lock()
		w.result.Lost++
		w.mu.Unlock()
		w.client.Close()
		for {
			select {
			case <-w.stop:
				return errStopped
			default:
			}
			if c, err := w.options.Reopen(); err == nil {
				w.client = c
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func (c *Client) set(n int64) error {
	_, err := c.Ask("SET", fmt.Sprintf("written:%d", n%WriterKeys), fmt.Sprint(n))
	return err
}
