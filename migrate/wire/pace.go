package wire

import (
	"context"
	"io"
	"sync"
	"time"
)

// Pace is a bandwidth cap that many Writers share. Its methods may be called concurrently.
type Pace struct {
	bytesPerSecond float64
	now            func() time.Time
	sleep          func(context.Context, time.Duration) error

	mu sync.Mutex
	// free is when the link, at the capped rate, is done with everything that was let through. Guarded by mu.
	free time.Time
}

// paceBurst is how far ahead of the cap a sender may run: less would make it sleep for every small frame.
const paceBurst = 20 * time.Millisecond

// paceChunkBytes is the most that is let through at once.
const paceChunkBytes = 256 << 10

// NewPace returns a cap in bytes a second. 0 or less is none.
func NewPace(bytesPerSecond float64) *Pace {
	return &Pace{bytesPerSecond: bytesPerSecond, now: time.Now, sleep: sleep}
}

// Writer returns w, slowed down. Its writes fail when ctx is done.
func (p *Pace) Writer(ctx context.Context, w io.Writer) io.Writer {
	if !(p.bytesPerSecond > 0) {
		return w
	}
	return &pacedWriter{ctx: ctx, pace: p, w: w}
}

type pacedWriter struct {
	ctx  context.Context
	pace *Pace
	w    io.Writer
}

func (w *pacedWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		chunk := b[:min(len(b), paceChunkBytes)]
		if err := w.pace.wait(w.ctx, len(chunk)); err != nil {
			return written, err
		}
		n, err := w.w.Write(chunk)
		written += n
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// wait returns when n bytes may be sent.
func (p *Pace) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now := p.now()
	if p.free.Before(now) {
		p.free = now
	}
	ahead := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(float64(n) / p.bytesPerSecond * float64(time.Second)))
	p.mu.Unlock()
	if ahead <= paceBurst {
		return ctx.Err()
	}
	return p.sleep(ctx, ahead-paceBurst)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
