package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A screen is a person's side of a terminal.
type screen struct {
	t      *testing.T
	master *os.File
	closed chan struct{} // when the other side has gone

	mu    sync.Mutex
	shown strings.Builder
}

// newScreen takes ownership of master.
func newScreen(t *testing.T, master *os.File) *screen {
	s := &screen{t: t, master: master, closed: make(chan struct{})}
	go func() {
		defer close(s.closed)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			s.mu.Lock()
			s.shown.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { master.Close() })
	return s
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

func (s *screen) types(text string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatalf("type %q: %v", text, err)
	}
}

// shows waits until the screen has shown text.
func (s *screen) shows(text string) {
	s.t.Helper()
	for deadline := time.Now().Add(awaitLimit); !strings.Contains(s.text(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the screen never showed %q, but:\n%s", text, s.text())
		}
	}
}

func (s *screen) resize(rows, cols uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		s.t.Fatal(err)
	}
}

// A place is a state root with a root filesystem.
type place struct {
	t          *testing.T
	dir, state string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	p := &place{t, dir, filepath.Join(dir, "state")}
	if err := writeRootfs(filepath.Join(dir, "rootfs")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteAll(p.state) })
	return p
}

// bundle writes a bundle with a terminal, and returns its directory.
func (p *place) bundle(terminal bool, change func(*specs.Process), args ...string) string {
	p.t.Helper()
	spec := newSpec(specOptions{terminal: terminal}, args)
	spec.Root.Path = filepath.Join(p.dir, "rootfs")
	if change != nil {
		change(spec.Process)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		p.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(p.dir, "bundle-")
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

func (p *place) command(args ...string) *exec.Cmd {
	return exec.Command("sbxmigrate", append([]string{"--root", p.state}, args...)...)
}

// must runs a command whose sandbox outlives it.
func (p *place) must(args ...string) {
	p.t.Helper()
	var stderr strings.Builder
	log, err := os.CreateTemp(p.dir, "log-")
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		p.t.Fatalf("sbxmigrate %q: %v\n%s%s", args, err, stderr.String(), said)
	}
}

// wantStatus waits for a command and checks how it ended.
func wantStatus(t *testing.T, cmd *exec.Cmd, want int) {
	t.Helper()
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("exit status is %d, want %d", got, want)
	}
}

// useShell tries what a person does in a shell: the window's size, ctrl-C,
// ctrl-D. The marks are split in what is typed, so that the echo does not match.
func useShell(s *screen) {
	s.t.Helper()
	s.types("echo size'='$(stty size)=\n")
	s.shows("size=20 70=")
	// What is in the foreground hears of a new size, and takes ctrl-C; the shell
	// goes on.
	s.types("sh -c 'trap \"echo resi\"\"zed\" WINCH; echo watch\"\"ing; while :; do sleep 0.02; done'\n")
	s.shows("watching")
	s.resize(33, 99)
	s.shows("resized")
	s.types("\x03")
	s.shows("^C")
	s.types("echo stat'us='$?=\n")
	s.shows("status=130=")
	s.types("echo size'='$(stty size)=\n")
	s.shows("size=33 99=")
	s.types("exit 5\n")
}

// A foreground run has our terminal, and gives it back as it was.
func TestRunOnTerminal(t *testing.T) {
	p := newPlace(t)
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 20, Cols: 70}); err != nil {
		t.Fatal(err)
	}
	cmd := p.command("run", "--bundle", p.bundle(true, nil, "/bin/sh"), "shell")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := newScreen(t, master)
	useShell(s)
	wantStatus(t, cmd, 5)
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Errorf("our terminal is not as it was: %+v, before %+v", after, before)
	}
	if _, err := os.Stat(filepath.Join(p.state, "shell")); !os.IsNotExist(err) {
		t.Errorf("the sandbox is left: %v", err)
	}
}

// The last output arrives, however much there is and however slow we are.
func TestRunOnTerminalLosesNoOutput(t *testing.T) {
	p := newPlace(t)
	cmd := p.command("run", "--bundle", p.bundle(true, nil, "/bin/sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done"), "lines")
	master, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	s := newScreen(t, master)
	wantStatus(t, cmd, 0)
	<-s.closed
	if !strings.HasSuffix(s.text(), "line 4999\r\n") {
		text := s.text()
		t.Errorf("the output ends with %q", text[max(0, len(text)-40):])
	}
}

// exec -t gives a shell beside the container's process.
func TestExecOnTerminal(t *testing.T) {
	p := newPlace(t)
	p.must("run", "--detach", "--bundle", p.bundle(false, nil, "/bin/sleep", "1000"), "s")
	cmd := p.command("exec", "-t", "s", "/bin/sh")
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 20, Cols: 70})
	if err != nil {
		t.Fatal(err)
	}
	useShell(newScreen(t, master))
	wantStatus(t, cmd, 5)
}

// Input from a pipe ends a program that reads its terminal, as ctrl-D does.
func TestExecTerminalWithPipe(t *testing.T) {
	p := newPlace(t)
	p.must("run", "--detach", "--bundle", p.bundle(false, nil, "/bin/sleep", "1000"), "s")
	cmd := p.command("exec", "-t", "s", "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && cat >/tmp/got; echo got=$(cat /tmp/got)=")
	cmd.Stdin = strings.NewReader("from a pipe\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got=from a pipe=\r\n") {
		t.Errorf("%v, it printed:\n%s", err, out)
	}
}

// consoleListener receives one terminal on a socket, as container managers do.
func consoleListener(t *testing.T, p *place) (path string, receive func() *screen) {
	t.Helper()
	path = filepath.Join(p.dir, "console.sock")
	os.Remove(path)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return path, func() *screen {
		listener.SetDeadline(time.Now().Add(awaitLimit))
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		name, rights := make([]byte, 4096), make([]byte, 1024)
		_, n, _, _, err := conn.ReadMsgUnix(name, rights)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(rights[:n])
		if err != nil || len(messages) != 1 {
			t.Fatalf("got %d messages: %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("got descriptors %v: %v", fds, err)
		}
		if err := unix.SetNonblock(fds[0], true); err != nil {
			t.Fatal(err)
		}
		return newScreen(t, os.NewFile(uintptr(fds[0]), "console"))
	}
}

// A container manager holds the terminal of a created container.
func TestCreateWithConsoleSocket(t *testing.T) {
	p := newPlace(t)
	path, receive := consoleListener(t, p)
	size := func(process *specs.Process) { process.ConsoleSize = &specs.Box{Height: 20, Width: 70} }
	p.must("create", "--bundle", p.bundle(true, size, "/bin/sh"), "--console-socket", path, "shell")
	s := receive()
	p.must("start", "shell")
	useShell(s)
	cmd := p.command("wait", "shell")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, cmd, 5)
	<-s.closed // nobody holds the other end
}

// exec in the background with a terminal: the process in the pid file stands for
// the one inside.
func TestExecDetachedWithConsoleSocket(t *testing.T) {
	p := newPlace(t)
	p.must("run", "--detach", "--bundle", p.bundle(false, nil, "/bin/sleep", "1000"), "s")
	path, receive := consoleListener(t, p)
	pidFile := filepath.Join(p.dir, "pid")
	p.must("exec", "-t", "--detach", "--console-socket", path, "--pid-file", pidFile, "s", "/bin/sh")
	s := receive()
	s.resize(20, 70)
	useShell(s)
	<-s.closed
}
