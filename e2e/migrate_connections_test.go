package e2e

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// A caller is a client that sets and gets a key of its own all the time, and checks each answer.
type caller struct {
	c          *redisClient
	answers    atomic.Int64
	stop       chan struct{}
	done       chan struct{}
	longestGap time.Duration // to be read after done
	err        error         // to be read after done
}

// callOn starts a caller on a connection.
func callOn(c *redisClient, name string, every time.Duration) *caller {
	b := &caller{c: c, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last := time.Now()
		for n := 0; b.err == nil; n++ {
			b.err = b.call(name, fmt.Sprint(n))
			b.longestGap, last = max(b.longestGap, time.Since(last)), time.Now()
			select {
			case <-b.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	return b
}

// call sets a key and gets it back.
func (b *caller) call(key, value string) error {
	for _, words := range [][]string{{"SET", key, value}, {"GET", key}} {
		if err := b.c.Send(words...); err != nil {
			return err
		}
		got, err := b.c.Reply()
		if err != nil {
			return err
		}
		if want := map[string]string{"SET": "OK", "GET": value}[words[0]]; got != want {
			return fmt.Errorf("%q is answered by %q, want %q", words, got, want)
		}
		b.answers.Add(1)
	}
	return nil
}

// Hundreds of connections, most of them idle and some busy, live through migrations there and back, and no client sees an error.
func TestMigrateManyConnections(t *testing.T) {
	const idle, busy, moves = 200, 50, 2
	l := newLab(t)
	client := l.machine(clientMAC, clientAddress+"/24", true)
	p := newPair(t)
	p.a.run("redis", p.a.bundle("redis", networkedRedis(l.machine(serverMAC, serverAddress+"/24", true))))
	var quiet []*redisClient
	ids := make(map[string]bool)
	for range idle {
		c := newRedisClient(t, client)
		ids[c.ask("CLIENT", "ID")] = true
		quiet = append(quiet, c)
	}
	var callers []*caller
	for n := range busy {
		callers = append(callers, callOn(newRedisClient(t, client), fmt.Sprintf("caller:%d", n), 10*time.Millisecond))
	}
	callOnAll := func() {
		t.Helper()
		before := make([]int64, busy)
		for n, b := range callers {
			before[n] = b.answers.Load()
		}
		for n, b := range callers {
			eventually(t, fmt.Sprintf("caller %d is answered", n), func() bool { return isClosed(b.done) || b.answers.Load() >= before[n]+20 })
		}
	}
	from, to := p.a, p.b
	for move := range moves {
		callOnAll()
		there := l.machine(serverMAC, serverAddress+"/24", false)
		from.mustMigrate("redis", to, "--bundle", to.bundle(fmt.Sprintf("redis-%d", move), networkedRedis(there)))
		callOnAll()
		from.must("delete", "redis")
		from, to = to, from
	}
	for n, b := range callers {
		close(b.stop)
		<-b.done
		if b.err != nil {
			t.Errorf("caller %d, after %d answers: %v", n, b.answers.Load(), b.err)
		}
	}
	logGaps(t, callers)
	for _, c := range quiet {
		id := c.ask("CLIENT", "ID")
		if !ids[id] {
			t.Errorf("an idle connection is client %s now, which is new", id)
		}
		delete(ids, id)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// logGaps logs how long the callers waited for an answer at the longest.
func logGaps(t *testing.T, callers []*caller) {
	t.Helper()
	var gaps []time.Duration
	var answers int64
	for _, b := range callers {
		gaps = append(gaps, b.longestGap)
		answers += b.answers.Load()
	}
	slices.Sort(gaps)
	t.Logf("%d answers; the longest gap of a caller: median %v, at most %v", answers, gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
}
