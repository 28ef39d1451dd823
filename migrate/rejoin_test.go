package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// The end of a session ends what it fetched over, although neither side has anything to say.
func TestFetchEndsWithItsSession(t *testing.T) {
	source, conn := loopback(t)
	target := &target{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	f := newFetch(newFakeKernel(t), setOfRange(0, 8))
	f.begin()
	ctx, cancel := context.WithCancel(t.Context())
	target.fetchOver(ctx, f, []net.Conn{conn})
	one := make([]byte, 1)
	if _, err := io.ReadFull(source, one); err != nil {
		t.Fatalf("it does not fetch: %v", err)
	}
	cancel()
	target.lanes.Wait()
	source.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, source); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open")
	}
}

// A fetch that failed for a reason that may have passed is followed by another, for as long as a source waits; and the source after that
// has another try. Memory that differs is for a person.
func TestArrivalTriesAgain(t *testing.T) {
	failed := func(err error) *fetch {
		f := newFetch(newFakeKernel(t), setOfRange(0, 8))
		f.mu.Lock()
		defer f.mu.Unlock()
		f.finish(err)
		return f
	}
	var a arrival
	now := time.Now()
	passing := failed(checkpoint.ErrDeaf)
	for name, f := range map[string]*fetch{
		"memory differs":                          failed(errSumDiffers),
		"memory has what nobody put there":        failed(fmt.Errorf("page 7: %w", faults.ErrPresent)),
		"the sandbox process breaks the protocol": failed(fmt.Errorf("%w: page 7 is beyond what it maps", checkpoint.ErrSandbox)),
		"all is there":                            failed(nil),
		"it is being fetched":                     newFetch(newFakeKernel(t), setOfRange(0, 8)),
	} {
		if a.triesAgain(f, now) {
			t.Errorf("another fetch begins where %s", name)
		}
	}
	for _, err := range []error{errKernelGone, fmt.Errorf("page 7: %w", unix.ENOMEM), fmt.Errorf("place pages: %w", unix.ENOSPC)} {
		if !new(arrival).triesAgain(failed(err), now) {
			t.Errorf("no other fetch begins after %v", err)
		}
	}
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {stallPatience / 2, true}, {stallPatience, false}, {stallPatience + time.Second, true}, {stallPatience * 2, true}} {
		if got := a.triesAgain(passing, now.Add(c.after)); got != c.want {
			t.Errorf("%v after the first failure another fetch begins: %v, want %v", c.after, got, c.want)
		}
	}
	passing.said = true
	if !a.triesAgain(passing, now.Add(stallPatience*4)) {
		t.Error("no other fetch begins although the last one has brought something")
	}
}

// A fetch that fails gives up the connections that it had, so that its source comes back, and not those that come after: that nothing comes
// over them is for the source to see.
func TestFetchHangsUpOnce(t *testing.T) {
	f := newFetch(newFakeKernel(t), setOfRange(0, 8))
	attach := func() {
		_, conn := loopback(t)
		if err := f.attach([]net.Conn{conn}); err != nil {
			t.Fatal(err)
		}
	}
	attach()
	f.mu.Lock()
	f.finish(checkpoint.ErrDeaf)
	f.mu.Unlock()
	if f.hangUp(); f.roads != nil {
		t.Error("the connections were kept")
	}
	attach()
	if f.hangUp(); f.roads == nil {
		t.Error("the connections that came after the failure were given up")
	}
}
