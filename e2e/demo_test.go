package e2e

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"
)

// The README's first command works with nothing but the binary, and cleans up after itself.
func TestDemo(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := h.command(ctx, "demo")
	// As on a machine that has nothing else: no PATH, a directory of its own.
	cmd.Env = []string{"TMPDIR=" + h.directory("tmp"), "HOME=" + h.dir}
	cmd.Dir = h.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	nothingRuns(t)
	if entries, err := os.ReadDir(h.path("tmp")); err != nil || len(entries) > 0 {
		t.Errorf("demo leaves %v (%v)", entries, err)
	}
}

// ctrl-C in the middle of the demo leaves nothing either.
func TestDemoInterrupted(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := h.command(ctx, "demo")
	cmd.Env = append(os.Environ(), "TMPDIR="+h.directory("tmp"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Once a sandbox runs; the demo itself is a process of the binary as well.
	for len(binaryProcesses()) < 2 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err == nil {
		t.Errorf("an interrupted demo succeeds:\n%s", out.Bytes())
	}
	nothingRuns(t)
	if entries, err := os.ReadDir(h.path("tmp")); err != nil || len(entries) > 0 {
		t.Errorf("an interrupted demo leaves %v (%v):\n%s", entries, err, out.Bytes())
	}
}
