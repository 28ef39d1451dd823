package sandbox

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestYield looks at the nice values of a process and of one that it started.
func TestYield(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sleep 600 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(child, unix.SIGKILL)
	yield(cmd.Process.Pid)
	if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children"); err != nil {
		t.Fatalf("this kernel lists no children (CONFIG_PROC_CHILDREN): %v", err)
	}
	for name, pid := range map[string]int{"process": cmd.Process.Pid, "child": child} {
		// The system call returns 20 less the nice value.
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, pid); err != nil || 20-raw != yieldNice {
			t.Errorf("%s has nice value %d (%v), want %d", name, 20-raw, err, yieldNice)
		}
	}
}
