package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// Fifty processes that come and go, each of which keeps a file in memory that it cuts off and writes anew, and reads what it wrote.
const fiftyProcesses = `
for i in $(seq 50); do (
	n=0
	while :; do
		n=$((n+1)); echo "$i $n" >/tmp/f$i
		cat /tmp/f$i /tmp/f1 >/tmp/g$i
		sleep 0.1
		read a b </tmp/f$i
		[ "$a $b" = "$i $n" ] || { echo "process $i: read '$a $b', wrote '$i $n'"; exit 1; }
		: >/tmp/f$i
	done) &
done
while :; do cp /bin/busybox /tmp/big; cmp /bin/busybox /tmp/big || exit 1; rm /tmp/big; done`

// fiftyCounts prints how far each of them is.
const fiftyCounts = `cd /tmp; for i in $(seq 50); do until read a n <f$i; do :; done; echo "$a $n"; done`

// tortureRoot makes a root file system with a shell and /torture, the program that changes its memory in every way there is, and ends when it
// does not find what it left there.
func tortureRoot(t *testing.T) string {
	t.Helper()
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "torture"), "./sandbox/dirty/testdata/torture")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the torture program: %v\n%s", err, out)
	}
	return root
}

// torture is a bundle of that program. What it does: see its own documentation.
func torture(root, activity string) guest.Bundle {
	return guest.Bundle{Root: root, Args: []string{"/torture", activity, "/tmp"}}
}

// tortureCounts prints how often each of its activities has found everything in its place.
var tortureCounts = []string{"/bin/cat", "/tmp/progress"}

// countsOn fails unless everything that a command inside counts, in lines of a name and a number, is counted on.
func countsOn(h *host, id string, command ...string) {
	h.t.Helper()
	counts := func() map[string]int {
		m := make(map[string]int)
		for line := range strings.Lines(h.exec(id, command...)) {
			var name string
			var n int
			if _, err := fmt.Sscan(line, &name, &n); err != nil {
				h.t.Fatalf("%s counts %q: %v", id, line, err)
			}
			m[name] = n
		}
		return m
	}
	first := counts()
	if len(first) == 0 {
		h.t.Fatalf("%s counts nothing", id)
	}
	eventually(h.t, "all of "+id+" goes on", func() bool {
		now := counts()
		for name, n := range first {
			if now[name] <= n {
				return false
			}
		}
		return true
	})
}

// Programs that change memory in every way there is move to and fro with the audit on: it finds no page that was missed, and they find
// what they left. At full size they move ten times each.
func TestMigrateChain(t *testing.T) {
	moves, pythonMiB := 2, 64
	if *long {
		moves, pythonMiB = 10, 512
	}
	for _, c := range memoryChangers(t, pythonMiB) {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.a.run(c.name, p.a.bundle(c.name, c.bundle))
			from, to := p.a, p.b
			before := goesOnWith(from.host, c.name, c.counts)
			for move := range moves {
				bundle := to.bundle(fmt.Sprintf("%s-%d", c.name, move), c.bundle)
				report := from.mustMigrate(c.name, to, "--verify", "--max-downtime", "10s", "--bundle", bundle)
				t.Logf("move %d: %d rounds, %d of %d pages in the stop: %v", move+1, len(report.Rounds), report.PagesResidual, report.PagesCommitted, report.Warnings)
				if diff := cmp.Diff(before, goesOnWith(to.host, c.name, c.counts)); diff != "" {
					t.Fatalf("move %d: content changed (-before +after):\n%s", move+1, diff)
				}
				from.must("delete", c.name)
				from, to = to, from
			}
			if c.name != "python" {
				return
			}
			if chain := from.ask(c.name, "chain"); chain["got"] != chain["want"] {
				t.Errorf("a thread lost a step of its work: %v", chain)
			}
		})
	}
}

// A memoryChanger is a program that changes its memory.
type memoryChanger struct {
	name   string
	bundle guest.Bundle
	counts []string // what prints how far it is
}

// memoryChangers are programs that change memory in every way there is, and end when they do not find what they left, or have a digest of it.
func memoryChangers(t *testing.T, pythonMiB int) []memoryChanger {
	t.Helper()
	root := tortureRoot(t)
	return []memoryChanger{
		{"processes", guest.Bundle{Root: root, Args: []string{"/bin/sh", "-c", fiftyProcesses}}, []string{"/bin/sh", "-c", fiftyCounts}},
		{"torture", torture(root, ""), tortureCounts},
		{"python", guest.Bundle{
			Args: guest.Program("python.py"), Env: []string{fmt.Sprintf("SIZE_MIB=%d", pythonMiB)},
			Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro"), guest.Bind(dataDir(t), guest.DataDir, "rw")},
		}, nil},
	}
}

// The same programs run on the target while their memory comes, slowly, and change it all the time: they find what they left. Each moves there
// with nothing sent ahead, and back with most of it.
func TestMigratePostcopyChain(t *testing.T) {
	moves, pythonMiB := 2, 32
	if *long {
		moves, pythonMiB = 10, 512
	}
	for _, c := range memoryChangers(t, pythonMiB) {
		if c.name == "processes" && !*long {
			continue // little memory in many processes, slowly: what it adds is not worth its time each time
		}
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.a.run(c.name, p.a.bundle(c.name, c.bundle))
			from, to := p.a, p.b
			before := goesOnWith(from.host, c.name, c.counts)
			for n := range moves {
				mode := []string{"postcopy", "hybrid"}[n%2]
				m := from.startMove(c.name, to, "--mode", mode, "--bandwidth", "24", "--compress", "none",
					"--bundle", to.bundle(fmt.Sprintf("%s-%d", c.name, n), c.bundle))
				m.mustEnd()
				fetched, _ := m.first(func(e progress) bool { return e.Phase == "fetch" && e.PagesTotal > 0 })
				t.Logf("move %d, %s: %d pages came after the start", n+1, mode, fetched.PagesTotal)
				if diff := cmp.Diff(before, goesOnWith(to.host, c.name, c.counts)); diff != "" {
					t.Fatalf("move %d: content changed (-before +after):\n%s", n+1, diff)
				}
				to.wantNoTrap(c.name)
				from.must("delete", c.name)
				from, to = to, from
			}
			if c.name != "python" {
				return
			}
			if chain := from.ask(c.name, "chain"); chain["got"] != chain["want"] {
				t.Errorf("a thread lost a step of its work: %v", chain)
			}
		})
	}
}

// Where the host has no device for it, accesses do not wait page by page: all goes on, and is right.
func TestMigratePostcopyWithoutDevice(t *testing.T) {
	p := newPair(t)
	p.b.stopAgent(syscall.SIGTERM)
	p.b.hides = "/dev/userfaultfd"
	p.b.startAgent()
	if r := p.b.try("doctor"); !regexp.MustCompile(`/dev/userfaultfd +missing`).MatchString(r.stdout) {
		t.Fatalf("the host has the device, or doctor does not look: %v", r)
	}
	bundle := torture(tortureRoot(t), "")
	p.a.run("torture", p.a.bundle("torture", bundle))
	goesOnWith(p.a.host, "torture", tortureCounts)
	m := p.a.startMove("torture", p.b, "--mode", "postcopy", "--bandwidth", "24", "--compress", "none", "--bundle", p.b.bundle("torture", bundle))
	m.inTheMiddle()
	p.b.stopAgent(syscall.SIGKILL)
	p.b.startAgent()
	m.mustEnd()
	goesOnWith(p.b.host, "torture", tortureCounts)
}

// The agent that places memory is killed twice while a program changes that memory: what the agent before has placed, and the program has changed
// since, is not placed again.
func TestMigratePostcopyOfTortureWhoseTargetAgentIsKilled(t *testing.T) {
	p := newPair(t)
	bundle := torture(tortureRoot(t), "")
	p.a.run("torture", p.a.bundle("torture", bundle))
	goesOnWith(p.a.host, "torture", tortureCounts)
	m := p.a.startMove("torture", p.b, "--mode", "postcopy", "--bandwidth", "8", "--compress", "none", "--bundle", p.b.bundle("torture", bundle))
	m.inTheMiddle()
	for range 2 {
		p.b.stopAgent(syscall.SIGKILL)
		p.b.startAgent()
		p.b.wantStatus("torture", specs.StateRunning)
	}
	m.mustEnd()
	goesOnWith(p.b.host, "torture", tortureCounts)
	p.b.wantNoTrap("torture")
}

// wantNoTrap fails unless a sandbox has one userfaultfd, which is for tracking: that for missing memory is closed.
func (h *peerHost) wantNoTrap(id string) {
	h.t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.sandboxState(id).Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	count := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.Contains(to, "userfaultfd") {
			count++
		}
	}
	if count != 1 {
		h.t.Errorf("sandbox %q has %d userfaultfds among %d descriptors, want one", id, count, len(fds))
	}
}

// goesOnWith fails unless the sandbox goes on, and returns the digest of what it holds, where it has one.
func goesOnWith(h *host, id string, counts []string) map[string]any {
	h.t.Helper()
	if counts != nil {
		eventually(h.t, id+" counts", func() bool { return h.try(append([]string{"exec", id}, counts...)...).code == 0 })
		countsOn(h, id, counts...)
		return nil
	}
	(&trip{from: h, to: h, fromID: id, toID: id}).goesOn()
	return h.ask(id, "digest")
}
