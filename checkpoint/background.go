package checkpoint

import "context"

// background is work that goes on beside what its caller does, at most one
// piece of it.
type background struct {
	stop context.CancelFunc // nil until it is started
	done chan error
}

func newBackground() *background { return &background{done: make(chan error, 1)} }

func (b *background) start(ctx context.Context, work func(context.Context) error) {
	ctx, b.stop = context.WithCancel(ctx)
	go func() {
		b.done <- work(ctx)
		close(b.done)
	}()
}

// wait returns the work's error. It must have been started.
func (b *background) wait() error { return <-b.done }

// cancel returns when nothing is going on any more. It may be called at any time,
// and more than once.
func (b *background) cancel() {
	if b.stop == nil {
		return
	}
	b.stop()
	for range b.done {
	}
}
