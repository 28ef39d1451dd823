package e2e

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A conversation is a foreground command whose stdin and stdout are pipes of the test.
type conversation struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// converse starts a command. The test ends it by closing its stdin, or by what it does to the sandbox.
func (h *host) converse(args ...string) *conversation {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	h.t.Cleanup(cancel)
	c := &conversation{t: h.t, cmd: h.command(ctx, args...)}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.stdin, c.stdout = stdin, bufio.NewReader(stdout)
	if err := c.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// says sends a line and fails unless the answer is this line.
func (c *conversation) says(line, answer string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
	got, err := c.stdout.ReadString('\n')
	if err != nil || got != answer+"\n" {
		c.t.Fatalf("said %q, got %q (%v), want %q", line, got, err, answer)
	}
}

// exitCode waits for the command's end.
func (c *conversation) exitCode() int {
	c.t.Helper()
	c.stdin.Close()
	c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// Stdio is that of the command that restores, whatever the one that ran had, and so is the exit status.
func TestStdioReconnects(t *testing.T) {
	from, to := newHost(t), newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := guest.Bundle{Root: root, Args: []string{"/bin/sh", "-c", `n=0; while read line; do n=$((n+1)); echo "$n: $line"; done; exit 4`}}
	first := from.converse("run", "--bundle", from.bundle("talk", bundle), "talk")
	first.says("one", "1: one")
	first.says("two", "2: two")
	image := from.path("images")
	from.must("checkpoint", "talk", "--image", image)
	first.exitCode()

	second := to.converse("restore", "--image", image, "--bundle", to.bundle("talk", bundle), "talk-on")
	second.says("three", "3: three")
	if code := second.exitCode(); code != 4 {
		t.Errorf("restore's exit status is %d, want the workload's 4", code)
	}
	to.try("delete", "--force", "talk-on")
	nothingRuns(t)
}

// A process that exec started goes on after a restore, though nobody listens to it any more.
func TestExecdProcessSurvives(t *testing.T) {
	from, to := newHost(t), newHost(t)
	c := startCounter(t, from, "host", guest.Bundle{})
	from.mustLaunch("exec", "exec", "--detach", "host", "/bin/sh", "-c",
		`i=0; while :; do i=$((i+1)); echo $i; echo $i >/tmp/second.new; mv /tmp/second.new /tmp/second; sleep 0.05; done`)
	second := func(h *host, id string) int { return atoi(t, h.exec(id, "/bin/cat", "/tmp/second")) }
	eventually(t, "the second process counts", func() bool { return from.try("exec", "host", "/bin/cat", "/tmp/second").code == 0 })
	before := second(from, "host")
	image := from.path("images")
	from.must("checkpoint", "host", "--image", image)
	to.mustLaunch("moved", "restore", "--detach", "--image", image, "--bundle", to.bundle("moved", c.bundle), "moved")
	c.restored(to, "moved").countsOn()
	eventually(t, "the second process counts on", func() bool { return second(to, "moved") > before })
	first := second(to, "moved")
	eventually(t, "the second process counts on for good", func() bool { return second(to, "moved") > first+5 })
}

// What cannot be saved is named before anything is paused, and the sandbox goes on.
func TestWhatCannotBeSavedIsNamed(t *testing.T) {
	h := newHost(t)
	data := h.directory("data")
	c := startCounter(t, h, "stays", guest.Bundle{Mounts: []specs.Mount{guest.Bind(data, "/mnt", "rw")}})
	h.mustLaunch("exec", "exec", "--detach", "stays", "/bin/sh", "-c", "mkfifo /mnt/vanished && exec 3<>/mnt/vanished && rm /mnt/vanished && touch /tmp/done && sleep 1000")
	eventually(t, "the pipe's name is gone", func() bool { return h.try("exec", "stays", "/bin/ls", "/tmp/done").code == 0 })
	image := h.path("images")
	for _, flags := range [][]string{{"--dry-run"}, nil, {"--leave-running"}} {
		message := h.refuses(append([]string{"checkpoint", "stays", "--image", image}, flags...)...)
		for _, part := range []string{"sleep", "descriptor 3", "deleted"} {
			if !strings.Contains(message, part) {
				t.Errorf("checkpoint %v does not say %q: %s", flags, part, message)
			}
		}
		c.countsOn()
	}
}
