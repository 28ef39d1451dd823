package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha3"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

const streamPort = "9000" // of the guest program stream.py

// streamPeriod is what the stream repeats, twice. The guest program has the same.
var streamPeriod = sync.OnceValue(func() []byte {
	period := sha3.SumSHAKE128([]byte("stream"), 1<<20+7)
	return append(period, period[:1<<20]...)
})

// streamPart is the stream's bytes from an offset on, at most 1 MiB of them.
func streamPart(at int64, n int) []byte {
	start := at % (1<<20 + 7)
	return streamPeriod()[start : start+int64(n)]
}

// networked is a bundle of a guest program that is reached through a namespace.
func networked(ns *os.File, program string) guest.Bundle {
	return guest.Bundle{
		Args: guest.Program(program), Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro")}, Edit: inNamespace(ns),
	}
}

// inNamespace makes a bundle name a network namespace.
func inNamespace(ns *os.File) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = netlab.Path(ns)
			}
		}
	}
}

// A flow is one direction of a stream between the test and a guest. It is watched all the time for how long it stands still.
type flow struct {
	conn *net.TCPConn
	name string
	done chan error // gets the result of the flow, once

	watched chan struct{} // closed when the watcher has ended

	mu sync.Mutex
	// What the watcher saw since the last call of stall. Guarded by mu.
	bytes     uint64
	moved     time.Time // when bytes last grew
	longest   time.Duration
	backoff   uint8  // the highest: above zero after a retransmission time-out
	outOfTurn uint32 // segments that came out of turn, ever
	repeated  uint32 // segments that the client sent again, ever
}

func newFlow(t *testing.T, ns *os.File, address, name, request string) *flow {
	t.Helper()
	conn, err := dialFrom(ns, net.JoinHostPort(address, streamPort))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	f := &flow{conn: conn.(*net.TCPConn), name: name, done: make(chan error, 1), watched: make(chan struct{}), moved: time.Now()}
	t.Cleanup(func() { f.conn.Close(); <-f.watched })
	if _, err := fmt.Fprintln(conn, request); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go f.watch()
	return f
}

// watch looks at the connection's state in the kernel every millisecond until it is closed.
func (f *flow) watch() {
	defer close(f.watched)
	raw, err := f.conn.SyscallConn()
	for ; err == nil; time.Sleep(time.Millisecond) {
		var info *unix.TCPInfo
		var infoErr error
		err = raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err == nil && infoErr == nil {
			f.see(info, time.Now())
		}
	}
}

func (f *flow) see(info *unix.TCPInfo, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Of the two, one stands still in either flow.
	if n := info.Bytes_acked + info.Bytes_received; n != f.bytes {
		f.bytes, f.moved = n, now
	}
	f.longest = max(f.longest, now.Sub(f.moved))
	f.backoff = max(f.backoff, info.Backoff)
	f.outOfTurn, f.repeated = info.Rcv_ooopack, info.Total_retrans
}

// stall returns the longest time without a byte since the last call, and whether the client's retransmission timer expired in it.
func (f *flow) stall() (longest time.Duration, timedOut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest, timedOut = f.longest, f.backoff > 0
	f.longest, f.backoff = 0, 0
	return longest, timedOut
}

func (f *flow) position() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// download starts a flow from the guest, whose every byte is compared.
func download(t *testing.T, ns *os.File, address string, bytesPerSecond int) *flow {
	f := newFlow(t, ns, address, "download", fmt.Sprintf("send %d", bytesPerSecond))
	go func() {
		buf, at := make([]byte, 256<<10), int64(0)
		for {
			n, err := f.conn.Read(buf)
			if !bytes.Equal(buf[:n], streamPart(at, n)) {
				f.done <- fmt.Errorf("wrong byte after %d", at)
				return
			}
			at += int64(n)
			if err != nil {
				f.done <- fmt.Errorf("after %d bytes: %w", at, err)
				return
			}
		}
	}()
	return f
}

// upload starts a flow to the guest, which compares every byte.
func upload(t *testing.T, ns *os.File, address string, bytesPerSecond int, stop <-chan struct{}) *flow {
	f := newFlow(t, ns, address, "upload", "check")
	go func() {
		const chunk = 32 << 10
		start, at := time.Now(), int64(0)
		for {
			due := start.Add(time.Duration(float64(at) / float64(bytesPerSecond) * float64(time.Second)))
			select {
			case <-stop:
				f.done <- f.uploaded(at)
				return
			case <-time.After(time.Until(due)):
			}
			if _, err := f.conn.Write(streamPart(at, chunk)); err != nil {
				f.done <- fmt.Errorf("after %d bytes: %w", at, err)
				return
			}
			at += chunk
		}
	}()
	return f
}

// uploaded ends an upload and asks the guest what it got.
func (f *flow) uploaded(sent int64) error {
	if err := f.conn.CloseWrite(); err != nil {
		return err
	}
	answer, err := bufio.NewReader(f.conn).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the guest's verdict on %d bytes: %w", sent, err)
	}
	var verdict struct {
		Bytes      int64
		WrongAfter *int64
	}
	if err := json.Unmarshal(answer, &verdict); err != nil || verdict.Bytes != sent || verdict.WrongAfter != nil {
		return fmt.Errorf("sent %d bytes, the guest says %q", sent, answer)
	}
	return nil
}

// A paced stream in each direction goes on through migrations there and back: no reset, no wrong byte. How long it stands still is logged.
func TestMigrateStreams(t *testing.T) {
	moves, bytesPerSecond := 4, 5_000_000
	if *long {
		moves, bytesPerSecond = 10, 25_000_000 // 200 Mbit/s
	}
	l := newLab(t)
	client := l.machine(clientMAC, clientAddress+"/24", true)
	p := newPair(t)
	home := l.machine(serverMAC, serverAddress+"/24", true)
	// The first target has the same address all the while.
	there := l.machine(serverMAC, serverAddress+"/24", false)
	p.a.run("web", p.a.bundle("web", networked(home, "stream.py")))
	p.a.ask("web", "retransmitted") // waits until the program answers

	stop := make(chan struct{})
	flows := []*flow{download(t, client, serverAddress, bytesPerSecond), upload(t, client, serverAddress, bytesPerSecond, stop)}
	stalls := make(map[*flow][]time.Duration)
	from, to := p.a, p.b
	for move := range moves {
		flowsOn(t, flows, bytesPerSecond/2)
		for _, f := range flows {
			f.stall()
		}
		from.mustMigrate("web", to, "--bundle", to.bundle(fmt.Sprintf("web-%d", move), networked(there, "stream.py")))
		flowsOn(t, flows, bytesPerSecond/2)
		for _, f := range flows {
			longest, timedOut := f.stall()
			stalls[f] = append(stalls[f], longest)
			t.Logf("move %d: %s stood still for %v at the longest; retransmission time-out: %v", move, f.name, longest.Round(time.Millisecond), timedOut)
		}
		from.must("delete", "web")
		from, to = to, from
		there = l.machine(serverMAC, serverAddress+"/24", false)
	}
	close(stop)
	if err := <-flows[1].done; err != nil {
		t.Errorf("upload: %v", err)
	}
	again := from.ask("web", "retransmitted")
	for _, f := range flows {
		slices.Sort(stalls[f])
		t.Logf("%s: %d bytes, median of the longest stalls %v of %v; %d segments out of turn, %d sent again by the client",
			f.name, f.position(), stalls[f][moves/2].Round(time.Millisecond), stalls[f], f.outOfTurn, f.repeated)
	}
	t.Logf("segments sent again by the guest: %v", again)
}

// flowsOn waits until each flow has carried some more bytes, and fails once one has ended.
func flowsOn(t *testing.T, flows []*flow, bytes int) {
	t.Helper()
	for _, f := range flows {
		before := f.position()
		eventually(t, f.name+" goes on", func() bool {
			select {
			case err := <-f.done:
				t.Fatalf("%s has ended: %v", f.name, err)
			default:
			}
			return f.position() >= before+uint64(bytes)
		})
	}
}
