package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRoundsDoNotMix sends the same pages on changing connections, round after round, and checks that a receiver never
// sees an older content after a newer one.
func TestRoundsDoNotMix(t *testing.T) {
	const conns, rounds, pages = 4, 50, 16
	barrier := NewBarrier(conns)
	var content [pages]atomic.Uint64
	var placed atomic.Uint64
	var readers sync.WaitGroup
	for c := range conns {
		near, far := net.Pipe()
		go func() { // the sender of connection c
			defer near.Close()
			w, err := NewWriter(near, WriterOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			for round := range uint64(rounds) {
				for page := range uint64(pages) {
					if int(page+round)%conns == c {
						w.WriteFrame(TypeMeta, uint16(page), AppendBarrier(nil, round))
					}
				}
				w.WriteFrame(TypeBarrier, 0, AppendBarrier(nil, round))
				w.Flush()
			}
		}()
		readers.Add(1)
		go func() {
			defer readers.Done()
			r := NewReader(far)
			for {
				f, err := r.Next()
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				number, _ := ParseBarrier(f.Payload)
				if f.Type == TypeBarrier {
					last, err := barrier.Arrive(number)
					if err != nil {
						t.Error(err)
						return
					}
					if last {
						placed.Add(1)
					}
					continue
				}
				if old := content[f.Stream].Swap(number + 1); old != number {
					t.Errorf("page %d: round %d after round %d", f.Stream, number, old)
				}
			}
		}()
	}
	readers.Wait()
	if placed.Load() != rounds {
		t.Fatalf("%d of %d barriers have one last reader", placed.Load(), rounds)
	}
}

func TestBarrierEndsForAll(t *testing.T) {
	lost := errors.New("link lost")
	for name, end := range map[string]struct {
		do   func(*Barrier)
		want error
	}{
		"lost connection": {func(b *Barrier) { b.Break(lost) }, lost},
		"another barrier": {func(b *Barrier) { b.Arrive(8) }, ErrSequence},
	} {
		b := NewBarrier(3)
		results := make(chan error, 1)
		go func() {
			_, err := b.Arrive(7)
			results <- err
		}()
		for { // until it waits
			b.mu.Lock()
			arrived := b.arrived
			b.mu.Unlock()
			if arrived == 1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		end.do(b)
		if err := <-results; !errors.Is(err, end.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.Arrive(7); !errors.Is(err, end.want) {
			t.Errorf("%s, late: %v", name, err)
		}
	}
}

func TestPaceKeepsTheRate(t *testing.T) {
	now := time.Unix(0, 0)
	var slept time.Duration
	p := NewPace(1 << 20)
	p.now = func() time.Time { return now }
	p.sleep = func(_ context.Context, d time.Duration) error {
		slept += d
		now = now.Add(d)
		return nil
	}
	var out bytes.Buffer
	a, b := p.Writer(context.Background(), &out), p.Writer(context.Background(), &out)
	for range 5 { // two writers share 10 MiB at 1 MiB/s
		for _, w := range []io.Writer{a, b} {
			if n, err := w.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	if out.Len() != 10<<20 || slept < 9500*time.Millisecond || slept > 10*time.Second {
		t.Fatalf("%d bytes in %v", out.Len(), slept)
	}
	// Time that was not used is not saved up.
	now, slept = now.Add(time.Hour), 0
	a.Write(make([]byte, 2<<20))
	if slept < 1500*time.Millisecond {
		t.Fatalf("2 MiB in %v after an hour of silence", slept)
	}
}

func TestPaceEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w := NewPace(1).Writer(ctx, io.Discard)
	w.Write([]byte("x"))
	cancel()
	if _, err := w.Write([]byte("y")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if NewPace(0).Writer(ctx, io.Discard) != io.Discard {
		t.Fatal("no cap slows down")
	}
}
