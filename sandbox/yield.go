package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// yieldNice is the nice value of a sandbox of which nothing is needed any more: a tenth of the CPU time of others.
const yieldNice = 10

// Yield lets the sandbox's processes give way to all others on this host, as far as the host allows. It is for one that is about to be
// ended and has nothing to do but to give its memory back, which takes a CPU 100 ms for each GiB.
func (s *Sandbox) Yield() {
	if s.Sandbox.Alive() {
		yield(s.Sandbox.PID)
	}
}

// yield does so with every thread of a process and of those that it started.
func yield(pid int) {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return // gone
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		unix.Setpriority(unix.PRIO_PROCESS, tid, yieldNice)
		children, _ := os.ReadFile(tasks + "/" + thread.Name() + "/children")
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				yield(pid)
			}
		}
	}
}
