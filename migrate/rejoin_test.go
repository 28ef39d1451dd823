package migrate

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"
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
