package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A terminal is the user's side of a pty: what is typed, and everything that was shown so far.
type terminal struct {
	t      *testing.T
	master *os.File

	mu    sync.Mutex
	shown strings.Builder
}

// watch takes ownership of the master and closes it after the test.
func watch(t *testing.T, master *os.File) *terminal {
	term := &terminal{t: t, master: master}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			term.mu.Lock()
			term.shown.Write(buffer[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		master.Close()
		<-done
	})
	return term
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.shown.String()
}

// typeIn writes as the user's keyboard does.
func (term *terminal) typeIn(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatalf("type %q: %v", text, err)
	}
}

// expect waits until the terminal shows something after the first so many bytes, and returns what follows it up to the end of its line.
func (term *terminal) expect(from int, what string) string {
	term.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text := term.text()[from:]
		if _, after, found := strings.Cut(text, what); found {
			if line, _, whole := strings.Cut(after, "\n"); whole {
				return strings.TrimRight(line, "\r")
			}
		}
		if time.Now().After(deadline) {
			term.t.Fatalf("the terminal never showed %q, but:\n%s", what, text)
		}
	}
}

// ask types a command and returns its output's first line. The marker is split in what is typed, so that the echo does not match.
func (term *terminal) ask(command string) string {
	term.t.Helper()
	from := len(term.text())
	term.typeIn("echo '-=''>' $(" + command + ")\n")
	return strings.TrimSpace(term.expect(from, "-=>"))
}

// resize sets the window's size, which the kernel tells to whoever has the terminal.
func (term *terminal) resize(rows, cols uint16) {
	term.t.Helper()
	if err := pty.Setsize(term.master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		term.t.Fatal(err)
	}
}

// A consoleSocket receives a terminal's master, as container managers do.
type consoleSocket struct {
	t        *testing.T
	listener *net.UnixListener
	path     string
}

func newConsoleSocket(t *testing.T) *consoleSocket {
	t.Helper()
	dir, err := os.MkdirTemp("", "console-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := dir + "/s"
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return &consoleSocket{t: t, listener: listener, path: path}
}

// receive returns the master that a command has sent.
func (s *consoleSocket) receive() *os.File {
	s.t.Helper()
	s.listener.SetDeadline(time.Now().Add(time.Minute))
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		s.t.Fatalf("nobody sent a terminal: %v", err)
	}
	defer conn.Close()
	name, control := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, control)
	if err != nil {
		s.t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		s.t.Fatalf("control messages %v: %v", messages, err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		s.t.Fatalf("descriptors %v: %v", fds, err)
	}
	// Not blocking, so that closing it ends a read.
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		s.t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "console")
}

// A shell under a pty keeps its variables, its directory, its window size, its terminal modes and a job in the background, which comes to the
// foreground afterwards and takes ctrl-C.
func TestShellWithJobUnderTerminal(t *testing.T) {
	from, to := newHost(t), newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := guest.Bundle{Args: []string{"/bin/sh", "-i"}, Root: root, Terminal: true, Env: []string{"PS1=$ "}}

	console := newConsoleSocket(t)
	from.mustLaunch("shell", "create", "--bundle", from.bundle("shell", bundle), "--console-socket", console.path, "shell")
	before := watch(t, console.receive())
	from.must("start", "shell")
	before.resize(33, 99)
	before.typeIn("cd /var/data; secret=open-sesame; stty -ixon\n")
	before.typeIn("(i=0; while :; do i=$((i+1)); echo $i >/tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.05; done) &\n")
	if got := before.ask("stty size"); got != "33 99" {
		t.Fatalf("the window's size is %q before", got)
	}
	eventually(t, "the job counts", func() bool { return from.exec("shell", "/bin/cat", "/tmp/count") != "" })
	questions := []string{"pwd", "echo $secret", "stty -a | md5sum", "stty size", "cat /tmp/jobs", "echo $$ $!", "cat /etc/motd"}
	answers := make(map[string]string)
	before.typeIn("jobs >/tmp/jobs\n")
	for _, question := range questions {
		answers[question] = before.ask(question)
	}
	if !strings.Contains(answers["cat /tmp/jobs"], "Running") {
		t.Fatalf("no job runs before: %q", answers)
	}
	counted := before.ask("cat /tmp/count")

	image := from.path("images") + ":shell"
	from.must("checkpoint", "shell", "--image", image)
	from.gone("shell")

	console = newConsoleSocket(t)
	to.mustLaunch("other", "restore", "--detach", "--image", image, "--bundle", to.bundle("other", bundle), "--console-socket", console.path, "other")
	after := watch(t, console.receive())
	after.typeIn("jobs >/tmp/jobs\n")
	for _, question := range questions {
		if got := after.ask(question); got != answers[question] {
			t.Errorf("%s: %q, before %q", question, got, answers[question])
		}
	}
	eventually(t, "the job counts on", func() bool { return atoi(t, after.ask("cat /tmp/count")) > atoi(t, counted) })

	// Job control works: the job comes to the foreground, and ctrl-C from the new terminal reaches it.
	at := len(after.text())
	after.typeIn("fg\n")
	after.expect(at, "fg")
	eventually(t, "ctrl-C ends the job", func() bool {
		after.typeIn("\x03")
		stopped := to.exec("other", "/bin/cat", "/tmp/count")
		time.Sleep(300 * time.Millisecond) // six of the job's steps
		return to.exec("other", "/bin/cat", "/tmp/count") == stopped
	})
	if got := after.ask("echo $secret"); got != "open-sesame" {
		t.Errorf("after ctrl-C the shell answers %q", got)
	}

	// The new terminal is the shell's: a new size reaches it.
	after.resize(44, 111)
	if got := after.ask("stty size"); got != "44 111" {
		t.Errorf("the new window's size is %q inside", got)
	}
	after.typeIn("exit 7\n")
	if r := to.try("wait", "other"); r.code != 7 && strings.TrimSpace(r.stdout) != "7" {
		t.Errorf("wait does not tell exit status 7: %v", r)
	}
}

// exec -t gives a shell on the user's own terminal: its size, its signals, its exit status.
func TestExecTerminal(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	h.run("sleeper", h.bundle("sleeper", guest.Bundle{Args: []string{"/bin/sleep", "1000"}, Root: root}))

	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := h.command(ctx, "exec", "-t", "--cwd", "/tmp", "--env", "FRUIT=plum", "--user", "1000:1000", "sleeper", "/bin/sh")
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 20, Cols: 70})
	if err != nil {
		t.Fatal(err)
	}
	term := watch(t, master)
	for question, want := range map[string]string{
		"stty size": "20 70", "pwd": "/tmp", "echo $FRUIT": "plum", "id -u": "1000", "id -g": "1000", "test -t 0 && echo terminal": "terminal",
	} {
		if got := term.ask(question); got != want {
			t.Errorf("%s: %q, want %q", question, got, want)
		}
	}
	term.resize(30, 90)
	eventually(t, "the new size arrives", func() bool { return term.ask("stty size") == "30 90" })

	// ctrl-C ends what runs in the foreground, and not the shell.
	at := len(term.text())
	term.typeIn("sleep 1000; echo 'interr''upted'\n")
	eventually(t, "sleep runs", func() bool {
		return strings.Contains(h.exec("sleeper", "/bin/ps"), "sleep 1000; echo") || running(h, "sleeper", "sleep") > 1
	})
	term.typeIn("\x03")
	_ = at
	if got := term.ask("echo alive"); got != "alive" {
		t.Errorf("after ctrl-C the shell answers %q", got)
	}
	term.typeIn("exit 5\n")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exec's exit status is %d, want the shell's 5", code)
	}
}

// running counts the processes of a name inside a sandbox.
func running(h *host, id, name string) int {
	h.t.Helper()
	count := 0
	for line := range strings.Lines(h.exec(id, "/bin/ps", "-o", "comm")) {
		if strings.TrimSpace(line) == name {
			count++
		}
	}
	return count
}

func atoi(t *testing.T, text string) int {
	t.Helper()
	var n int
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(fmt.Errorf("%q is not a number: %w", text, err))
	}
	return n
}
