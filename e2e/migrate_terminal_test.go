package e2e

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// attached is somebody at a terminal by the attach command.
type attached struct {
	*terminal
	cmd *exec.Cmd
}

// attach runs attach under a terminal of its own.
func (h *host) attach(t *testing.T, args ...string) *attached {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	t.Cleanup(cancel)
	cmd := h.command(ctx, append([]string{"attach"}, args...)...)
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	return &attached{terminal: watch(t, master), cmd: cmd}
}

// says waits until the terminal has shown a text: what a command wrote last may still be on its way when it has ended.
func (term *terminal) says(what, text string) {
	term.t.Helper()
	eventually(term.t, what, func() bool { return strings.Contains(term.text(), text) })
}

// leave detaches.
func (a *attached) leave() {
	a.t.Helper()
	a.typeIn("\x10\x11")
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("detaching: %v: %s", err, a.text())
	}
}

// end types exit and returns the command's exit status.
func (a *attached) end(status int) {
	a.t.Helper()
	a.typeIn("exit " + strconv.Itoa(status) + "\n")
	a.cmd.Wait()
	if code := a.cmd.ProcessState.ExitCode(); code != status {
		a.t.Errorf("attach ended with %d, want the shell's %d: %s", code, status, a.text())
	}
}

// Shells under terminals, one the container's own and one by exec -t, keep their variables, their terminal's modes and size and their jobs, and
// people sit down at them where they arrive.
func TestMigrateTerminals(t *testing.T) {
	p := newPair(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := guest.Bundle{Args: []string{"/bin/sh", "-i"}, Root: root, Terminal: true, Env: []string{"PS1=$ "}}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	run := p.a.command(ctx, "run", "--bundle", p.a.bundle("shell", bundle), "--keep", "shell")
	master, err := pty.StartWithSize(run, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	before := watch(t, master)
	before.typeIn("cd /var/data; secret=open-sesame; stty -ixon\n")
	before.typeIn("(i=0; while :; do i=$((i+1)); echo $i >/tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.05; done) &\n")
	eventually(t, "the job counts", func() bool { return p.a.try("exec", "shell", "/bin/cat", "/tmp/count").stdout != "" })

	execs := p.a.command(ctx, "exec", "-t", "shell", "/bin/sh")
	execMaster, err := pty.StartWithSize(execs, &pty.Winsize{Rows: 20, Cols: 70})
	if err != nil {
		t.Fatal(err)
	}
	other := watch(t, execMaster)
	other.typeIn("fruit=plum\n")
	pid := other.ask("echo $$")

	questions := []string{"pwd", "echo $secret", "stty -a | md5sum", "stty size", "echo $$ $!"}
	answers := make(map[string]string)
	for _, question := range questions {
		answers[question] = before.ask(question)
	}
	p.a.mustMigrate("shell", p.b, "--bundle", p.b.bundle("shell", bundle))

	// On the source both terminals are let go of.
	run.Wait()
	execs.Wait()
	for name, term := range map[string]*terminal{"run": before, "exec": other} {
		term.says(name+" -t says where the sandbox went", "has migrated to: b (")
	}

	after := p.b.attach(t, "shell")
	for _, question := range questions {
		if got := after.ask(question); got != answers[question] {
			t.Errorf("%s: %q, before %q", question, got, answers[question])
		}
	}
	// What is shown while nobody is there is shown to the next one, and kept.
	after.typeIn("(until test -e /tmp/go; do sleep 0.05; done; echo while''-away) &\n")
	after.ask("echo typed")
	after.leave()
	p.b.exec("shell", "/bin/touch", "/tmp/go")
	eventually(t, "the output is kept", func() bool { return strings.Contains(p.b.must("logs", "--output", "shell"), "while-away") })
	after = p.b.attach(t, "shell")
	after.expect(0, "while-away")

	// Job control works, and so do a new size and somebody else who takes the terminal over.
	at := len(after.text())
	after.typeIn("fg %1\n")
	after.expect(at, "fg %1")
	eventually(t, "ctrl-C ends the job", func() bool {
		after.typeIn("\x03")
		stopped := p.b.exec("shell", "/bin/cat", "/tmp/count")
		time.Sleep(300 * time.Millisecond) // six of the job's steps
		return p.b.exec("shell", "/bin/cat", "/tmp/count") == stopped
	})
	after.resize(44, 111)
	eventually(t, "the new size arrives", func() bool { return after.ask("stty size") == "44 111" })
	next := p.b.attach(t, "shell")
	after.cmd.Wait()
	after.says("who was there before is told", "somebody else has attached")
	if got := next.ask("echo $secret"); got != "open-sesame" {
		t.Errorf("after ctrl-C the shell answers %q", got)
	}

	execd := p.b.attach(t, "--pid", pid, "shell")
	if got := execd.ask("echo $fruit"); got != "plum" {
		t.Errorf("the exec'd shell answers %q", got)
	}
	execd.leave()

	// Back again, and both are still there.
	p.a.must("delete", "shell")
	p.b.mustMigrate("shell", p.a, "--bundle", p.a.bundle("again", bundle))
	next.cmd.Wait()
	next.says("who was attached is told", "has migrated to: a (")
	execd = p.a.attach(t, "--pid", pid, "shell")
	if got := execd.ask("echo $fruit"); got != "plum" {
		t.Errorf("the exec'd shell answers %q", got)
	}
	execd.end(3)
	here := p.a.attach(t, "shell")
	if got := here.ask("echo $secret"); got != "open-sesame" {
		t.Errorf("back again, the shell answers %q", got)
	}
	here.end(7)
	p.a.must("delete", "shell")
	if r := p.a.try("attach", "shell"); r.code == 0 {
		t.Errorf("attaching to nothing: %v", r)
	}
}
