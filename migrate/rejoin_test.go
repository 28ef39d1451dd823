package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
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

// ownProcess is this process as a sandbox's record names it.
func ownProcess(t *testing.T) sandbox.Process {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Process{PID: os.Getpid(), StartTicks: ticks}
}

// That memory differs outlives the agent that found it: the next one, to whose kernel nothing is missing, does not call it complete.
func TestDifferingMemoryStaysForAPerson(t *testing.T) {
	r := &Receiver{Journals: t.TempDir(), Root: sandbox.Root(t.TempDir())}
	id := attempt.New()
	record, err := json.Marshal(sandbox.Record{ID: "web", Sandbox: ownProcess(t), Creating: true, RestoredFrom: cameBy(id, "a")})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(string(r.Root), "web")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "state.json"), record, 0o600)); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(r.Journals, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, state := range []journal.State{journal.Owner, journal.Started} {
		if err := j.Append(journal.Record{Role: journal.Target, State: state, Attempt: id, Epoch: 1, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	_, conn := loopback(t)
	session := func() *target {
		return &target{
			id: "web", receiver: r, journal: j, handover: handover.NewTarget(j, handover.Peer{Name: "a"}), log: slog.New(slog.DiscardHandler),
			session: &agent.Session{Control: wire.NewControlConn(conn, wire.Target, id), Conn: conn},
		}
	}
	first := session()
	f := newFetch(newFakeKernel(t), setOfRange(0, 8))
	f.mu.Lock()
	f.finish(fmt.Errorf("page 7: %w", faults.ErrPresent))
	f.mu.Unlock()
	first.arrival = &arrival{sb: r.survivorOf("web", id).sb, started: true, fetch: f}
	for range 2 { // each session of a source says it again
		if err := first.fetched(t.Context(), f, 1); !errors.Is(err, faults.ErrPresent) {
			t.Errorf("the fetch ends with %v", err)
		}
	}
	if last := j.History().Last(id); last.State != journal.Differs || !strings.Contains(last.Note, "page 7") {
		t.Fatalf("the journal says %+v", last)
	}

	second := session()
	if err := second.find(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if f := second.arrival.fetching(); f == nil || !f.isOver() || !memoryDiffers(f.err) {
		t.Fatalf("the agent that was started anew has the fetch %+v", f)
	}
	if standing, err := second.handover.Query(t.Context(), id, 1); standing != attempt.Incomplete || err != nil {
		t.Errorf("it says %s, %v", standing, err)
	}
	if err := second.fetched(t.Context(), second.arrival.fetching(), 1); !errors.Is(err, errSumDiffers) {
		t.Errorf("its fetch ends with %v", err)
	}
	if err := second.arrival.fetching().place([]wire.PageRecord{recordOf(0, 1, 7)}); err == nil {
		t.Error("it takes pages")
	}
	second.arrival.release()
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
