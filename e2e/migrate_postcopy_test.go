package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// progress is a line of --progress=json, as far as tests look at it.
type progress struct {
	Time           time.Time `json:"time"`
	Phase          string    `json:"phase"`
	PagesRemaining uint64    `json:"pagesRemaining"`
	PagesTotal     uint64    `json:"pagesTotal"`
}

// A move is a migrating command, with what it tells.
type move struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has printed everything

	mu     sync.Mutex
	events []progress      // guarded by mu
	other  strings.Builder // guarded by mu: lines that are no events
}

// startMove starts a migration that tells how it goes.
func (h *peerHost) startMove(id string, to *peerHost, flags ...string) *move {
	h.t.Helper()
	args := append([]string{"migrate", "--data", h.data(), "--peer", to.name, "--progress", "json", id, to.address}, flags...)
	m := &move{t: h.t, cmd: h.command(context.Background(), args...), done: make(chan struct{})}
	out, err := m.cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go m.read(out)
	return m
}

func (m *move) read(out io.Reader) {
	defer close(m.done)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e progress
		err := json.Unmarshal(lines.Bytes(), &e)
		m.mu.Lock()
		if err == nil {
			m.events = append(m.events, e)
		} else {
			m.other.WriteString(lines.Text() + "\n")
		}
		m.mu.Unlock()
	}
}

// first returns the first event that a condition holds for, if there was one yet.
func (m *move) first(condition func(progress) bool) (progress, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if condition(e) {
			return e, true
		}
	}
	return progress{}, false
}

// inTheMiddle waits until some of the missing memory has come.
func (m *move) inTheMiddle() {
	m.t.Helper()
	eventually(m.t, "a part of memory was fetched", func() bool {
		select {
		case <-m.done:
			m.t.Fatalf("the migration ended before: %s", m.other.String())
		default:
		}
		_, ok := m.first(func(e progress) bool { return e.Phase == "fetch" && e.PagesRemaining < e.PagesTotal*3/4 })
		return ok
	})
}

// wait waits for the command's end.
func (m *move) wait() error {
	<-m.done
	return m.cmd.Wait()
}

func (m *move) mustEnd() {
	m.t.Helper()
	if err := m.wait(); err != nil {
		m.t.Fatalf("migrate: %v: %s", err, m.other.String())
	}
}

// A sandbox whose memory is still on its way is seen and can be ended, but not saved or moved again.
func (h *peerHost) wantArriving(id string, back *peerHost) {
	h.t.Helper()
	h.wantStatus(id, specs.StateRunning)
	h.must("ps", id)
	h.must("list")
	if r := h.try("checkpoint", id, "--image", h.path("image")); r.code == 0 || !strings.Contains(r.stderr, "memory-arriving") {
		h.t.Errorf("checkpoint while memory is missing: %v", r)
	}
	if r := h.migrate(id, back); r.code == 0 || !strings.Contains(r.stderr, "E_ARRIVING") {
		h.t.Errorf("migrate while memory is missing: %v", r)
	}
}

// A redis runs on the target before its memory is there, over a link that is as slow as it is said to be and is cut in the middle: it goes
// on, and keeps every key. At full size it is a measurement.
func TestMigratePostcopyOverALinkThatIsCut(t *testing.T) {
	keys, bits, outage := 8192, uint64(50e6), 4*time.Second
	if *long {
		keys, bits, outage = 262144, 1e9, 10*time.Second
	}
	l := newLab(t)
	client := l.machine(clientMAC, clientAddress+"/24", true) // 1
	home := l.machine(serverMAC, serverAddress+"/24", true)   // 2
	p := l.slowPair(bits)                                     // 3 and 4
	p.a.run("redis", p.a.bundle("redis", networkedRedis(home)))
	c := newRedisClient(t, client)
	c.fill(keys)
	c.settle()
	digest := c.ask("DEBUG", "DIGEST")
	there := l.machine(serverMAC, serverAddress+"/24", false)

	pings := pingOn(newRedisClient(t, client))
	m := p.a.startMove("redis", p.b, "--mode", "postcopy", "--compress", "none", "--bundle", p.b.bundle("redis", networkedRedis(there)))
	m.inTheMiddle()
	l.cut(3)
	began := time.Now()
	p.b.wantArriving("redis", p.a)
	if r := p.a.try("cancel", "--data", p.a.data(), "redis"); r.code == 0 || !strings.Contains(r.stderr, "E_TOO_LATE") {
		t.Errorf("cancelled after the hand-over: %v", r)
	}
	time.Sleep(time.Until(began.Add(outage)))
	l.mend(3)
	m.mustEnd()
	ended := time.Now()
	answers := pings.end(t)
	c.ask("DEL", "pinged")
	if now := c.ask("DEBUG", "DIGEST"); now != digest {
		t.Errorf("digest of all keys is %s, before %s", now, digest)
	}
	t.Logf("first answer %v after the pause; link out for %v, over %v after it was back", m.firstAnswer(answers), outage, ended.Sub(began.Add(outage)))
	p.a.wantMigrated("redis", p.b)
	p.b.wantStatus("redis", specs.StateRunning)
}

// A redis moves there and back over a link of 1 Gbit/s, before its memory does, or before what it wrote last: each time it answers, and in the end
// it has every key. At full size it is a measurement.
func TestMigratePostcopyThereAndBack(t *testing.T) {
	keys, moves := 8192, 2
	if *long {
		keys, moves = 262144, 5
	}
	for _, c := range []struct {
		name, mode string
		settled    bool // redis has no work of its own to do
	}{{"postcopy", "postcopy", true}, {"rehashing", "postcopy", false}, {"hybrid", "hybrid", true}} {
		t.Run(c.name, func(t *testing.T) {
			mode, settled := c.mode, c.settled
			l := newLab(t)
			client := l.machine(clientMAC, clientAddress+"/24", true) // 1
			home := l.machine(serverMAC, serverAddress+"/24", true)   // 2
			p := l.slowPair(1e9)                                      // 3 and 4
			p.a.run("redis", p.a.bundle("redis", networkedRedis(home)))
			c := newRedisClient(t, client)
			c.fill(keys)
			if settled {
				c.settle()
			}
			digest := c.ask("DEBUG", "DIGEST")
			pinging := newRedisClient(t, client)
			from, to := p.a, p.b
			var first, gap, total []time.Duration
			for n := range moves {
				there := l.machine(serverMAC, serverAddress+"/24", false)
				bundle := to.bundle(fmt.Sprintf("redis-%d", n), networkedRedis(there))
				pings := pingOn(pinging)
				began := time.Now()
				m := from.startMove("redis", to, "--mode", mode, "--compress", "none", "--bundle", bundle)
				m.mustEnd()
				total = append(total, time.Since(began))
				answers := pings.end(t)
				first, gap = append(first, m.firstAnswer(answers)), append(gap, longestGap(answers))
				from.wantMigrated("redis", to)
				from.must("delete", "redis")
				from, to = to, from
			}
			c.ask("DEL", "pinged")
			if now := c.ask("DEBUG", "DIGEST"); now != digest {
				t.Errorf("digest of all keys is %s, before %s", now, digest)
			}
			t.Logf("medians of %d: first answer %v after the pause %v, longest gap %v, all over after %v",
				moves, median(first), first, median(gap), median(total).Round(time.Millisecond))
		})
	}
}

// settle makes redis rehash what it holds, for which it looks at 100 keys from anywhere in its memory at a time, before it answers. One key more, as a pinger
// sets, makes it do that at last.
func (c *redisClient) settle() {
	c.t.Helper()
	c.ask("SET", "pinged", "")
	eventually(c.t, "redis has rehashed its keys", func() bool { return !strings.Contains(c.ask("DEBUG", "HTSTATS", "0"), "rehashing target") })
	c.ask("DEL", "pinged")
}

// slowPair are two hosts on a link of so many bits per second each.
func (l *lab) slowPair(bits uint64) *pair {
	l.t.Helper()
	const ipA, ipB = "10.9.0.11", "10.9.0.12"
	nsA := l.machine("02:00:00:00:00:0a", ipA+"/24", true) // 3
	nsB := l.machine("02:00:00:00:00:0b", ipB+"/24", true) // 4
	// After their namespaces, and so gone before them.
	p := &pair{t: l.t, a: &peerHost{host: newHost(l.t), name: "a", address: ipA + ":7443"}, b: &peerHost{host: newHost(l.t), name: "b", address: ipB + ":7443"}}
	p.a.ns, p.b.ns = nsA, nsB
	l.slow(3, bits/8)
	l.slow(4, bits/8)
	p.begin()
	return p
}

// firstAnswer returns how long after the pause a client was answered by the target.
func (m *move) firstAnswer(answers []time.Time) time.Duration {
	pause, _ := m.first(func(e progress) bool { return e.Phase == "pause" })
	stopped, _ := m.first(func(e progress) bool { return e.Phase == "load" })
	return firstAfter(answers, stopped.Time).Sub(pause.Time).Round(time.Millisecond)
}

// longestGap returns the longest time between two answers.
func longestGap(answers []time.Time) (longest time.Duration) {
	for n := 1; n < len(answers); n++ {
		longest = max(longest, answers[n].Sub(answers[n-1]))
	}
	return longest.Round(time.Millisecond)
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// pinger asks one question after the other and notes when each was answered.
type pinger struct {
	answers    []time.Time
	err        error
	stop, done chan struct{}
}

func pingOn(c *redisClient) *pinger {
	p := &pinger{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for p.err == nil {
			if p.err = c.Send("SET", "pinged", "x"); p.err == nil {
				_, p.err = c.Reply()
			}
			p.answers = append(p.answers, time.Now())
			select {
			case <-p.stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return p
}

func (p *pinger) end(t *testing.T) []time.Time {
	t.Helper()
	close(p.stop)
	<-p.done
	if p.err != nil {
		t.Fatalf("the client's connection was lost: %v", p.err)
	}
	return p.answers
}

// firstAfter returns the first answer after a moment.
func firstAfter(answers []time.Time, moment time.Time) time.Time {
	for _, at := range answers {
		if at.After(moment) {
			return at
		}
	}
	return time.Time{}
}

// slowRedis starts a redis and moves it, slowly enough for something to happen in the middle.
func slowRedis(t *testing.T) (p *pair, m *move, before map[string]any) {
	t.Helper()
	p = newPair(t)
	b := guest.Bundle{
		Args: guest.Program("redis.py"), Env: []string{"SIZE_MIB=64"},
		Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro")},
	}
	p.a.run("redis", p.a.bundle("redis", b))
	p.a.ask("redis", "work") // waits until the program answers
	before = p.a.ask("redis", "digest")
	m = p.a.startMove("redis", p.b, "--mode", "postcopy", "--bandwidth", "8", "--compress", "none", "--bundle", p.b.bundle("redis", b))
	m.inTheMiddle()
	return p, m, before
}

// The command on the source is killed in the middle: the source's agent goes on serving, and ends what the command has begun.
func TestMigratePostcopyWhoseCommandIsKilled(t *testing.T) {
	p, m, before := slowRedis(t)
	m.cmd.Process.Kill()
	m.wait()
	eventually(t, "the source's agent ends the migration", func() bool { return len(p.a.attempts()) == 0 || p.a.ended("redis") })
	p.a.wantMigrated("redis", p.b)
	p.b.wantStatus("redis", specs.StateRunning)
	if diff := cmp.Diff(before, p.b.ask("redis", "digest")); diff != "" {
		t.Errorf("the keys changed (-before +after):\n%s", diff)
	}
}

// ended says whether what is left of a sandbox here has ended.
func (h *peerHost) ended(id string) bool { return h.sandboxState(id).Status == specs.StateStopped }

// The target's agent is killed in the middle: its sandbox waits for the next one, which goes on.
func TestMigratePostcopyWhoseTargetAgentIsKilled(t *testing.T) {
	p, m, before := slowRedis(t)
	p.b.stopAgent(syscall.SIGKILL)
	p.b.wantStatus("redis", specs.StateRunning)
	p.b.startAgent()
	m.mustEnd()
	p.a.wantMigrated("redis", p.b)
	p.b.wantStatus("redis", specs.StateRunning)
	if diff := cmp.Diff(before, p.b.ask("redis", "digest")); diff != "" {
		t.Errorf("the keys changed (-before +after):\n%s", diff)
	}
}

// The target's sandbox process stands still for so long that its agent gives it up, which cannot tell it any more what has come. Once it
// runs again memory goes on coming, with the same agent and the same command.
func TestMigratePostcopyOfASandboxThatIsFrozen(t *testing.T) {
	p, m, before := slowRedis(t)
	pid, _ := p.b.sandboxPIDs("redis")
	syscall.Kill(pid, syscall.SIGSTOP)
	eventually(t, "the agent gives the sandbox process up", func() bool {
		return strings.Contains(p.b.log.String(), `msg="missing pages"`)
	})
	syscall.Kill(pid, syscall.SIGCONT)
	m.mustEnd()
	p.a.wantMigrated("redis", p.b)
	p.b.wantStatus("redis", specs.StateRunning)
	if diff := cmp.Diff(before, p.b.ask("redis", "digest")); diff != "" {
		t.Errorf("the keys changed (-before +after):\n%s", diff)
	}
}

// KILL ends a sandbox whose memory is still on its way. The source keeps its copy, and an operator decides.
func TestMigratePostcopyOfASandboxThatIsKilled(t *testing.T) {
	p, m, before := slowRedis(t)
	p.b.must("kill", "redis", "KILL")
	if err := m.wait(); err == nil {
		t.Fatal("the migration succeeded")
	}
	p.b.gone("redis")
	p.b.must("resolve", "--elsewhere", "--data", p.b.data(), "redis")
	p.a.must("resolve", "--here", "--data", p.a.data(), "redis")
	p.a.wantStatus("redis", specs.StateRunning)
	if diff := cmp.Diff(before, p.a.ask("redis", "digest")); diff != "" {
		t.Errorf("the keys changed (-before +after):\n%s", diff)
	}
}

// A sandbox that writes faster than can be sent moves all the same, where that is asked for.
func TestMigrateFallsBackToPostcopy(t *testing.T) {
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	m := p.a.startMove("web", p.b, "--on-timeout", "postcopy", "--timeout", "1ms", "--max-downtime", "1us", "--bundle", p.b.bundle("web", c.bundle))
	m.mustEnd()
	if _, ok := m.first(func(e progress) bool { return e.Phase == "fetch" }); !ok {
		t.Error("nothing was left to be fetched after the start")
	}
	c.restored(p.b.host, "web").countsOn()
}
