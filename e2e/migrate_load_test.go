package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/redis"
)

// A loader sets keys in batches at a steady rate, or as fast as redis takes them, each to a value that says when it was set.
type loader struct {
	client *redisClient
	keys   int
	// acknowledged is the number of the last acknowledged write. Write n is of key n modulo keys.
	acknowledged atomic.Int64
	longestGap   time.Duration
	err          error
	stop, done   chan struct{}
}

const loadBatch = 32

// loadOn starts a loader on a connection of its own. Its keys are those of fill.
func loadOn(c *redisClient, keys, perSecond int) *loader {
	l := &loader{client: c, keys: keys, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = l.run(time.Second * loadBatch / time.Duration(perSecond))
	}()
	return l
}

// key of a write. A step that shares no factor with their number spreads neighbours over all keys.
func (l *loader) key(n int64) string { return fmt.Sprintf("key:%d", n*7919%int64(l.keys)) }

// noise is what values are cut from: nothing compresses it.
var noise = func() string {
	b := make([]byte, 1<<20)
	rand.Read(b)
	return string(b)
}()

func loadedValue(n int64) string {
	at := n * 61 % int64(len(noise)-redisValueBytes)
	return fmt.Sprintf("%020d", n) + noise[at:at+redisValueBytes-20]
}

func (l *loader) run(interval time.Duration) error {
	last := time.Now()
	next := last
	for n := int64(0); ; n += loadBatch {
		var b bytes.Buffer
		for i := range int64(loadBatch) {
			b.Write(redis.Encode("SET", l.key(n+1+i), loadedValue(n+1+i)))
		}
		if err := l.client.Write(b.Bytes()); err != nil {
			return err
		}
		for range loadBatch {
			if _, err := l.client.Reply(); err != nil {
				return err
			}
		}
		now := time.Now()
		l.longestGap, last = max(l.longestGap, now.Sub(last)), now
		l.acknowledged.Store(n + loadBatch)
		// What was missed in a stop is made up for, as by clients that do not know of it.
		next = next.Add(interval)
		select {
		case <-l.stop:
			return nil
		case <-time.After(time.Until(next)):
		}
	}
}

// end stops the loader and returns how many writes were acknowledged.
func (l *loader) end(t *testing.T) int64 {
	t.Helper()
	close(l.stop)
	<-l.done
	if l.err != nil {
		t.Fatalf("the client's connection was lost after %d writes: %v", l.acknowledged.Load(), l.err)
	}
	return l.acknowledged.Load()
}

// wantAll fails unless every key that was set holds the last of its acknowledged writes.
func (l *loader) wantAll(c *redisClient) {
	c.t.Helper()
	const batch = 256
	acknowledged := l.acknowledged.Load()
	first := max(1, acknowledged-int64(l.keys)+1)
	for n := first; n <= acknowledged; n += batch {
		var b bytes.Buffer
		end := min(n+batch, acknowledged+1)
		for i := n; i < end; i++ {
			b.Write(redis.Encode("GET", l.key(i)))
		}
		if err := c.Write(b.Bytes()); err != nil {
			c.t.Fatal(err)
		}
		for i := n; i < end; i++ {
			got, err := c.Reply()
			if err != nil {
				c.t.Fatal(err)
			}
			if got != loadedValue(i) {
				c.t.Fatalf("write %d of %d was acknowledged, and its key holds %.20q now", i, acknowledged, got)
			}
		}
	}
}

// A redis under a load of batches moves, or does what --on-timeout says, and no acknowledged write is lost in either case. At full size it
// holds 1 GiB and the load is 20,000 writes a second, 76 MiB.
func TestMigrateLoadedRedis(t *testing.T) {
	keys, perSecond := 8192, 1000
	if *long {
		keys, perSecond = 262144, 20000
	}
	l := newLab(t)
	client := l.machine(clientMAC, clientAddress+"/24", true)
	p := newPair(t)
	home := l.machine(serverMAC, serverAddress+"/24", true)
	p.a.run("redis", p.a.bundle("redis", networkedRedis(home)))
	c := newRedisClient(t, client)
	c.fill(keys)
	loading := newRedisClient(t, client)
	from, to := p.a, p.b
	for _, m := range []struct {
		name  string
		flags []string
		moves bool
	}{
		// No stop is as short as a millisecond.
		{"abort", []string{"--max-downtime", "1ms", "--timeout", "1ms"}, false},
		{"stop", []string{"--max-downtime", "1ms", "--timeout", "1s", "--on-timeout", "stop"}, true},
		{"converge", nil, true},
	} {
		t.Run(m.name, func(t *testing.T) {
			load := loadOn(loading, keys, perSecond)
			eventually(t, "the client writes", func() bool { return load.acknowledged.Load() > int64(perSecond) })
			began, before := time.Now(), load.acknowledged.Load()
			there := l.machine(serverMAC, serverAddress+"/24", false)
			flags := append(m.flags, "--bundle", to.bundle("redis-"+m.name, networkedRedis(there)))
			if m.moves {
				report := from.mustMigrate("redis", to, flags...)
				for i, r := range report.Rounds {
					t.Logf("round %d: %+v", i+1, r)
				}
				if n := len(report.Rounds); m.name == "converge" && (report.Rounds[n-1].Reason != "converged" || n < 2 ||
					report.Rounds[n-2].Reason != "last" && report.Rounds[n-1].PagesRemaining > 0) {
					t.Error("what was known to have changed did not go right before the stop")
				}
			} else if r := from.migrate("redis", to, flags...); r.code == 0 || !strings.Contains(r.stderr, "E_NOT_CONVERGED") {
				t.Fatalf("it was to stay here: %v", r)
			}
			after := load.acknowledged.Load()
			t.Logf("%.0f writes a second while it was to move", float64(after-before)/time.Since(began).Seconds())
			eventually(t, "the client writes on", func() bool { return load.acknowledged.Load() > after+int64(perSecond) })
			writes := load.end(t) // and only then its longest gap can be read
			t.Logf("%d writes, longest gap %v", writes, load.longestGap)
			load.wantAll(c)
			if m.moves {
				from.must("delete", "redis")
				from, to = to, from
			} else {
				from.wantStatus("redis", "running")
			}
		})
	}
}
