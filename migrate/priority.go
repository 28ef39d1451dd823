package migrate

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Nice values of this process: while memory is copied in rounds the sandbox comes first, and in the stop everything waits for us.
const (
	niceRounds = 15
	niceStop   = 0
)

// setNice gives every thread of this process a nice value, as far as the host allows; threads that are made later have that of
// the one that makes them.
func setNice(nice int) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if tid, err := strconv.Atoi(entry.Name()); err == nil {
			unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
		}
	}
}
