package e2e

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/redis"
)

const (
	serverMAC, serverAddress = "02:00:00:00:00:02", "10.9.0.2"
	clientMAC, clientAddress = "02:00:00:00:00:03", "10.9.0.3"
	redisPort                = "6379"
	redisValueBytes          = 4000
)

// networkedRedis is a bundle of a redis that is reached through a namespace.
func networkedRedis(ns *os.File) guest.Bundle {
	return guest.Bundle{
		Args: []string{"/usr/bin/redis-server", "--port", redisPort, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "",
			"--appendonly", "no", "--dir", "/tmp", "--daemonize", "no", "--enable-debug-command", "yes"},
		Edit: inNamespace(ns),
	}
}

// A redisClient is a client that fails its test.
type redisClient struct {
	*redis.Client
	t *testing.T
}

func newRedisClient(t *testing.T, ns *os.File) *redisClient {
	t.Helper()
	var c *redisClient
	eventually(t, "redis listens", func() bool {
		conn, err := dialFrom(ns, serverAddress+":"+redisPort)
		if err != nil {
			return false
		}
		c = &redisClient{redis.NewClient(conn), t}
		return true
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func (c *redisClient) ask(words ...string) string {
	c.t.Helper()
	answer, err := c.Ask(words...)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// fill sets keys, every other one with random bytes.
func (c *redisClient) fill(keys int) {
	c.t.Helper()
	if err := c.Fill(keys, redisValueBytes); err != nil {
		c.t.Fatal(err)
	}
}

// A writer sets one key after the other at a steady rate, each to its number, and notes the longest time without an answer.
type writer struct {
	acknowledged atomic.Int64
	longestGap   time.Duration
	err          error
	stop, done   chan struct{}
}

// writeOn starts a writer on a connection of its own.
func writeOn(c *redisClient, perSecond int) *writer {
	w := &writer{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		last := time.Now()
		for n := int64(1); ; n++ {
			if w.err = c.Send("SET", fmt.Sprintf("written:%d", n%10000), fmt.Sprint(n)); w.err == nil {
				_, w.err = c.Reply()
			}
			if w.err != nil {
				return
			}
			now := time.Now()
			w.longestGap, last = max(w.longestGap, now.Sub(last)), now
			w.acknowledged.Store(n)
			select {
			case <-w.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	return w
}

// end stops the writer and returns how many writes were acknowledged, and the longest gap between two.
func (w *writer) end(t *testing.T) (int64, time.Duration) {
	t.Helper()
	close(w.stop)
	<-w.done
	if w.err != nil {
		t.Fatalf("the client's connection was lost after %d writes: %v", w.acknowledged.Load(), w.err)
	}
	return w.acknowledged.Load(), w.longestGap
}

// A redis that a client outside writes to all the time moves there and back: the connection stays, no acknowledged write is lost, and all
// keys are equal.
func TestMigrateConnectedRedis(t *testing.T) {
	// At full size it is a measurement: the audit, which reads all memory in the stop, is left out.
	keys, moves, flags := 8192, 2, []string{"--verify"}
	if *long {
		keys, moves, flags = 262144, 6, nil
	}
	l := newLab(t)
	client := l.machine(clientMAC, clientAddress+"/24", true)
	p := newPair(t)
	home := l.machine(serverMAC, serverAddress+"/24", true)
	p.a.run("redis", p.a.bundle("redis", networkedRedis(home)))
	c := newRedisClient(t, client)
	c.fill(keys)
	digest := c.ask("DEBUG", "DIGEST")

	writing := newRedisClient(t, client)
	from, to := p.a, p.b
	for move := range moves {
		w := writeOn(writing, 1000)
		eventually(t, "the client writes", func() bool { return w.acknowledged.Load() > 100 })
		there := l.machine(serverMAC, serverAddress+"/24", false)
		before := w.acknowledged.Load()
		bundle := to.bundle(fmt.Sprintf("redis-%d", move), networkedRedis(there))
		from.mustMigrate("redis", to, append(flags, "--bundle", bundle)...)
		after := w.acknowledged.Load()
		eventually(t, "the client writes on", func() bool { return w.acknowledged.Load() > after+100 })
		acknowledged, gap := w.end(t)
		t.Logf("%d writes before, %d in all; longest gap %v", before, acknowledged, gap)
		for n := max(1, acknowledged-9999); n <= acknowledged; n++ {
			if got := c.ask("GET", fmt.Sprintf("written:%d", n%10000)); got != fmt.Sprint(n) {
				t.Fatalf("write %d of %d was acknowledged, and is %q now", n, acknowledged, got)
			}
		}
		for n := range int64(10000) {
			c.ask("DEL", fmt.Sprintf("written:%d", n))
		}
		if now := c.ask("DEBUG", "DIGEST"); now != digest {
			t.Fatalf("move %d: digest of all keys is %s, before %s", move, now, digest)
		}
		from.must("delete", "redis")
		from, to = to, from
	}
}
