package checkpoint

import (
	"context"
	"errors"
	"testing"
)

func TestBackgroundWait(t *testing.T) {
	want := errors.New("the disk is full")
	b := newBackground()
	b.start(context.Background(), func(context.Context) error { return want })
	if err := b.wait(); !errors.Is(err, want) {
		t.Errorf("wait returned %v, want %v", err, want)
	}
	b.cancel()
}

// cancel ends work that would never end, and returns only then.
func TestBackgroundCancel(t *testing.T) {
	ended := false
	b := newBackground()
	b.cancel() // nothing was started
	b.start(context.Background(), func(ctx context.Context) error {
		<-ctx.Done()
		ended = true
		return ctx.Err()
	})
	b.cancel()
	if !ended {
		t.Error("cancel returned while the work went on")
	}
	b.cancel()
}
