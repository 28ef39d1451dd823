package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// hostilePatience bounds whatever an attack waits for.
const hostilePatience = time.Minute

// A hostileLab is a host with a sandbox and a trusted key, whose holder does not behave, and an agent that it attacks.
type hostileLab struct {
	t       *testing.T
	a, b    string // the hosts' directories
	bundle  string
	agent   *exec.Cmd
	log     bytes.Buffer // of the agent; read after it has ended
	address string
	own     hostkey.Identity
	server  hostkey.Peer
	epoch   attempt.Epoch // of the last attempt
}

// A hostile host, trusted or not, is refused with a clear error whatever it sends, learns nothing, starts nothing, and does not keep the
// agent from serving: with 1,000 idle connections open a real sandbox still moves in.
func TestAgentAmongHostilePeers(t *testing.T) {
	l := newHostileLab(t)
	var got strings.Builder
	for _, attack := range []struct {
		name string
		run  func() error
		want string // part of the error that the attacker gets, or of what the agent's log says about it
	}{
		{"untrusted key", l.untrustedKey, "refused this host's key"},
		{"another protocol version", l.anotherVersion, "peer speaks another protocol version"},
		{"another build", l.anotherBuild, "build_differs"},
		{"control message that claims 4 GiB", func() error { return l.sendsAfterHello(binary.LittleEndian.AppendUint32(nil, 1<<32-1)) }, "claims 4294967295 bytes (at most"},
		{"truncated control message", l.truncatedMessage, "hung up"},
		{"plan of 2^60 bytes of memory", l.hugePlan, "at most 4294967296 pages"},
		{"frame that claims 4 GiB", func() error { return l.frame(frameClaiming(1<<32-1, nil)) }, "frame 0 claims 4294967295 bytes"},
		{"frame that claims a stream of 2^60 bytes", l.hugeStream, "state frames end after 1152921504606846976 bytes"},
		{"pages at 2^60", l.hugePage, "names 1 pages at page 281474976710656 of a file"},
		{"truncated frame", func() error { return l.frame(frameClaiming(4096, []byte("and no more"))) }, "inside a pages frame"},
		{"frame with a wrong checksum", func() error { return l.frame(frameClaiming(4, []byte("oops"))) }, "checksum"},
		{"commit of an attempt that was never prepared", l.unpreparedCommit, string(attempt.Refused)},
	} {
		err := attack.run()
		if err == nil || !strings.Contains(err.Error(), attack.want) {
			t.Errorf("%s: got %v, want %q", attack.name, err, attack.want)
		}
		fmt.Fprintf(&got, "%-46s %v\n", attack.name, err)
	}
	for deadline := time.Now().Add(hostilePatience); ; time.Sleep(50 * time.Millisecond) {
		out := l.must("--root", l.b+"/state", "list", "--quiet")
		if strings.TrimSpace(out) == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("attacks left %q", out)
		}
	}

	idle := l.idleConnections(1000)
	l.must("--root", l.a+"/state", "migrate", "--data", l.a, "--peer", "b", "web", l.address)
	fmt.Fprintf(&got, "%-46s a real sandbox moved in meanwhile\n", fmt.Sprintf("%d idle connections", len(idle)))
	for _, conn := range idle {
		conn.Close()
	}

	before := l.must("--root", l.b+"/state", "state", "web")
	replayed, err := l.replayedCommit()
	if err != nil || replayed != attempt.Complete {
		t.Errorf("replayed commit: got %q, %v, want to hear that it is complete", replayed, err)
	}
	fmt.Fprintf(&got, "%-46s %s, and nothing was started\n", "commit replayed on a new connection", replayed)
	repeated := l.repeatedMessage()
	if repeated == nil || !strings.Contains(repeated.Error(), "repeated or lost") {
		t.Errorf("repeated message: got %v", repeated)
	}
	fmt.Fprintf(&got, "%-46s %v\n", "commit repeated on the same connection", repeated)
	if after := l.must("--root", l.b+"/state", "state", "web"); after != before {
		t.Errorf("the sandbox is another one after a replayed commit: %s, before %s", after, before)
	}
	l.end()
	if !strings.Contains(l.log.String(), "ended inside a control message") || strings.Contains(l.log.String(), "panic") || t.Failed() {
		t.Errorf("agent's log:\n%s", &l.log)
	}
	t.Logf("what each got:\n%s", &got)
}

func newHostileLab(t *testing.T) *hostileLab {
	t.Helper()
	dir := t.TempDir()
	l := &hostileLab{t: t, a: filepath.Join(dir, "a"), b: filepath.Join(dir, "b"), bundle: filepath.Join(dir, "bundle")}
	rootfs := filepath.Join(dir, "rootfs")
	spec := newSpec(specOptions{}, []string{"/bin/sh", "-c", "while :; do sleep 1; done"})
	spec.Root.Path = rootfs
	config, err := json.Marshal(spec)
	if err := errors.Join(err, writeRootfs(rootfs), os.MkdirAll(l.bundle, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.bundle, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]string)
	for _, host := range []string{l.a, l.b} {
		keys[host] = strings.TrimSpace(l.must("key", "init", "--data", host))
		t.Cleanup(func() { deleteAll(host + "/state") })
	}
	l.must("key", "trust", "b", keys[l.b], "--data", l.a)
	l.must("key", "trust", "a", keys[l.a], "--data", l.b)
	if l.own, err = hostkey.Open(filepath.Join(l.a, "keys")).Identity(); err != nil {
		t.Fatal(err)
	}
	if l.server, err = hostkey.Open(filepath.Join(l.a, "keys")).Peer("b"); err != nil {
		t.Fatal(err)
	}
	// Files and not pipes: the sandbox inherits them.
	run := exec.Command("sbxmigrate", "--root", l.a+"/state", "run", "--detach", "--bundle", l.bundle, "web")
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	l.start()
	return l
}

// start starts the agent of b.
func (l *hostileLab) start() {
	l.t.Helper()
	l.agent = exec.Command("sbxmigrate", "--root", l.b+"/state", "agent", "--listen", "127.0.0.1:0", "--data", l.b)
	l.agent.Stderr = &l.log
	l.agent.WaitDelay = hostilePatience
	out, err := l.agent.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.agent.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(l.end)
	if _, err := fmt.Fscanln(out, &l.address); err != nil {
		l.t.Fatal(err)
	}
}

// end ends the agent, once.
func (l *hostileLab) end() {
	if l.agent.ProcessState == nil {
		l.agent.Process.Signal(syscall.SIGTERM)
		l.agent.Wait()
	}
}

func (l *hostileLab) must(args ...string) string {
	l.t.Helper()
	cmd := exec.Command("sbxmigrate", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("sbxmigrate %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

func (l *hostileLab) dial(p wire.Preamble) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hostilePatience)
	defer cancel()
	conn, err := agent.Dial(ctx, l.address, l.own, l.server, p)
	if err == nil {
		conn.SetDeadline(time.Now().Add(hostilePatience))
		l.t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func (l *hostileLab) untrustedKey() error {
	stranger, err := hostkey.NewIdentity()
	if err != nil {
		return err
	}
	conn, err := agent.Dial(context.Background(), l.address, stranger, l.server, wire.Preamble{Kind: wire.KindControl, Attempt: attempt.New()})
	if err == nil {
		conn.Close()
	}
	return err
}

// anotherVersion sends a preamble whose version this build does not know.
func (l *hostileLab) anotherVersion() error {
	config, err := hostkey.ClientTLS(l.own, hostkey.Pinned(l.server))
	if err != nil {
		return err
	}
	conn, err := tls.Dial("tcp", l.address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(hostilePatience))
	// Greet would say its own version; so change what it writes.
	return wire.Greet(&otherVersion{conn}, wire.Preamble{Kind: wire.KindControl, Attempt: attempt.New()})
}

// otherVersion changes the version of the preamble that is written through it.
type otherVersion struct{ net.Conn }

func (c *otherVersion) Write(b []byte) (int, error) {
	const versionAt, sumAt = 4, 28
	b = bytes.Clone(b)
	b[versionAt]++
	binary.LittleEndian.PutUint32(b[sumAt:], crc32.Checksum(b[:sumAt], crc32.MakeTable(crc32.Castagnoli)))
	return c.Conn.Write(b)
}

// A hostileAttempt is one that looks right so far.
type hostileAttempt struct {
	lab     *hostileLab
	id      attempt.ID
	epoch   attempt.Epoch
	conn    net.Conn
	control *wire.ControlConn
}

// hello begins an attempt. change, if not nil, changes what it says.
func (l *hostileLab) hello(change func(*wire.Hello)) (*hostileAttempt, error) {
	l.epoch++
	s := &hostileAttempt{lab: l, id: attempt.New(), epoch: l.epoch}
	return s, s.greet(change)
}

// greet opens a control connection of the attempt and says hello.
func (s *hostileAttempt) greet(change func(*wire.Hello)) error {
	conn, err := s.lab.dial(wire.Preamble{Kind: wire.KindControl, Attempt: s.id})
	if err != nil {
		return err
	}
	s.conn, s.control = conn, wire.NewControlConn(conn, wire.Source, s.id)
	version, gvisor, err := checkpoint.Build()
	if err != nil {
		return err
	}
	hello := &wire.Hello{
		Build: wire.Build{Version: version, GVisor: gvisor, Architecture: runtime.GOARCH}, Sandbox: "evil", Epoch: s.epoch,
		Mode: "precopy", DataConnections: 1,
	}
	if change != nil {
		change(hello)
	}
	_, err = ask[*wire.Welcome](s, hello)
	return err
}

// ask sends a message, if there is one, and returns the answer. What else comes is an error.
func ask[M wire.Message](s *hostileAttempt, question wire.Message) (answer M, err error) {
	if question != nil {
		if err := s.control.Send(question); err != nil {
			return answer, err
		}
	}
	m, err := s.control.Receive()
	if errors.Is(err, io.EOF) {
		return answer, errors.New("the agent ended the connection")
	}
	if err != nil {
		return answer, err
	}
	switch m := m.(type) {
	case M:
		return m, nil
	case *wire.Refuse:
		return answer, fmt.Errorf("refused: %s: %s", m.Code, m.Message)
	}
	return answer, fmt.Errorf("unexpected answer: %T", m)
}

func (l *hostileLab) anotherBuild() error {
	_, err := l.hello(func(h *wire.Hello) { h.Build.GVisor = "v0.0.0-another" })
	return err
}

// sendsAfterHello sends bytes where the plan is due.
func (l *hostileLab) sendsAfterHello(b []byte) error {
	s, err := l.hello(nil)
	if err != nil {
		return err
	}
	if _, err := s.conn.Write(b); err != nil {
		return err
	}
	_, err = ask[*wire.Findings](s, nil)
	return err
}

// truncatedMessage ends the connection inside a message. Nobody is left to be told.
func (l *hostileLab) truncatedMessage() error {
	s, err := l.hello(nil)
	if err != nil {
		return err
	}
	if _, err := s.conn.Write([]byte{100, 0, 0, 0, '{'}); err != nil {
		return err
	}
	return errors.Join(s.conn.Close(), errors.New("nothing: it hung up"))
}

func (l *hostileLab) hugePlan() error {
	s, err := l.hello(nil)
	if err != nil {
		return err
	}
	body := fmt.Sprintf(`{"seq":1,"type":"plan","attempt":"%v","body":{"manifest":{},"environment":{},"network":{},"files":[{"stream":0,"pages":%d}]}}`,
		s.id, uint64(1<<60/wire.PageBytes))
	if _, err := s.conn.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return err
	}
	_, err = ask[*wire.Findings](s, nil)
	return err
}

// prepared brings an attempt to where pages may be sent: the target has a standby.
func (l *hostileLab) prepared() (*hostileAttempt, *tls.Conn, error) {
	s, err := l.hello(nil)
	if err != nil {
		return nil, nil, err
	}
	plan, err := l.plan()
	if err != nil {
		return nil, nil, err
	}
	if _, err := ask[*wire.Findings](s, plan); err != nil {
		return nil, nil, err
	}
	data, err := l.dial(wire.Preamble{Kind: wire.KindData, Attempt: s.id, Index: 0, Count: 1})
	return s, data, err
}

// plan is a right one: that of a real sandbox.
func (l *hostileLab) plan() (*wire.Plan, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hostilePatience)
	defer cancel()
	sb, err := sandbox.Root(l.a + "/state").Open("web")
	if err != nil {
		return nil, err
	}
	live, err := checkpoint.OpenLive(ctx, sb)
	if err != nil {
		return nil, err
	}
	defer live.Close()
	survey, err := live.Survey(ctx)
	if err != nil {
		return nil, err
	}
	config, err := checkpoint.Describe(sb, survey, survey.MemoryBytes)
	if err != nil {
		return nil, err
	}
	environment, network := config.Environment, config.Network
	config.Environment, config.Network = nil, nil
	manifest, err := json.Marshal(map[string]any{"config": config, "bundle": l.bundle, "policy": restoreenv.PolicyStrict, "map": nil})
	return &wire.Plan{
		Manifest: manifest, Environment: environment, Network: network,
		Files: []wire.MemoryFile{{Stream: 0, Pages: survey.MemoryBytes / wire.PageBytes}},
	}, err
}

// frame sends bytes on a data connection, ends it, and returns how the target takes that.
func (l *hostileLab) frame(b []byte) error {
	return l.data(func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

func (l *hostileLab) data(send func(io.Writer) error) error {
	s, data, err := l.prepared()
	if err != nil {
		return err
	}
	if err := send(data); err != nil {
		return err
	}
	data.Close()
	_, err = ask[*wire.Placed](s, &wire.Round{Number: 1, Files: []wire.MemoryFile{{Stream: 0, Pages: 1}}})
	return err
}

// frameClaiming is a frame's header that claims a payload of some size, and what there is of it.
func frameClaiming(bytes uint32, payload []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, bytes)
	b = append(b, byte(wire.TypePages), byte(wire.CodecRaw), 0, 0)
	b = binary.LittleEndian.AppendUint64(b, 0)
	b = binary.LittleEndian.AppendUint32(b, bytes)
	return append(append(b, 0, 0, 0, 0), payload...)
}

// wellFramed sends one right frame.
func (l *hostileLab) wellFramed(t wire.Type, payload []byte) error {
	return l.data(func(conn io.Writer) error {
		w, err := wire.NewWriter(conn, wire.WriterOptions{Codec: wire.CodecRaw})
		if err != nil {
			return err
		}
		return errors.Join(w.WriteFrame(t, 0, payload), w.Flush())
	})
}

func (l *hostileLab) hugeStream() error {
	return l.wellFramed(wire.TypeEnd, wire.AppendEnd(nil, wire.End{Type: wire.TypeState, Bytes: 1 << 60}))
}

func (l *hostileLab) hugePage() error {
	var batch wire.PageBatch
	batch.Zero(1<<60/wire.PageBytes, 1)
	return l.wellFramed(wire.TypePages, batch.Payload())
}

// unpreparedCommit commits what was never sent.
func (l *hostileLab) unpreparedCommit() error {
	s, _, err := l.prepared()
	if err != nil {
		return err
	}
	defer s.conn.Close()
	standing, err := ask[*wire.Standing](s, &wire.Commit{Epoch: s.epoch})
	if err != nil {
		return err
	}
	return fmt.Errorf("the target's standing is %q", standing.Standing)
}

// moved is the attempt that brought the sandbox to b.
func (l *hostileLab) moved() (*hostileAttempt, error) {
	h, err := journal.Read(filepath.Join(l.a, "journals"), "web")
	if err != nil {
		return nil, err
	}
	last, _ := h.Current()
	s := &hostileAttempt{lab: l, id: last.Attempt, epoch: last.Epoch}
	return s, s.greet(func(h *wire.Hello) { h.Sandbox = "web" })
}

func (l *hostileLab) replayedCommit() (attempt.Standing, error) {
	s, err := l.moved()
	if err != nil {
		return "", err
	}
	defer s.conn.Close()
	standing, err := ask[*wire.Standing](s, &wire.Commit{Epoch: s.epoch})
	if err != nil {
		return "", err
	}
	return standing.Standing, nil
}

// repeatedMessage sends the bytes of a commit twice.
func (l *hostileLab) repeatedMessage() error {
	s, err := l.moved()
	if err != nil {
		return err
	}
	body := fmt.Sprintf(`{"seq":1,"type":"commit","attempt":"%v","body":{"epoch":%d}}`, s.id, s.epoch)
	message := append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
	for range 2 {
		if _, err := s.conn.Write(message); err != nil {
			return err
		}
	}
	if _, err := ask[*wire.Standing](s, nil); err != nil {
		return fmt.Errorf("the first one: %w", err)
	}
	_, err = ask[*wire.Standing](s, nil)
	return err
}

// idleConnections opens connections that say nothing.
func (l *hostileLab) idleConnections(count int) (conns []net.Conn) {
	l.t.Helper()
	for range count {
		conn, err := net.Dial("tcp", l.address)
		if err != nil {
			l.t.Fatalf("idle connection %d: %v", len(conns), err)
		}
		l.t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	return conns
}
