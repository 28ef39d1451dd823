package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A process is one of the machine, seen from outside.
type process struct {
	pid     int
	cmdline []string
}

// binaryProcesses returns every process that runs the binary under test. Tests run one after another, so that they are all of the current one.
func binaryProcesses() []process {
	own, err := os.Stat(binary)
	if err != nil {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p := process{pid: pid}
		if exe, err := os.Stat(p.file("exe")); err == nil && os.SameFile(exe, own) {
			p.cmdline = strings.Split(strings.TrimRight(p.read("cmdline"), "\x00"), "\x00")
			found = append(found, p)
		}
	}
	return found
}

// file returns a path below the process's directory in /proc.
func (p process) file(elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(p.pid)}, elem...)...)
}

// read returns the content of such a file, empty if the process has ended.
func (p process) read(name string) string {
	content, _ := os.ReadFile(p.file(name))
	return string(content)
}

// link returns the target of such a link.
func (p process) link(elem ...string) string {
	target, _ := os.Readlink(p.file(elem...))
	return target
}

// status returns a field of /proc/PID/status.
func (p process) status(field string) string {
	for line := range strings.Lines(p.read("status")) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kill ends the process.
func (p process) kill() {
	if process, err := os.FindProcess(p.pid); err == nil {
		process.Kill()
	}
}

// nothingRuns fails if a process of the binary is still there, after giving what ends the time to do so.
func nothingRuns(t *testing.T) {
	t.Helper()
	eventually(t, "all processes of the sandbox end", func() bool { return len(binaryProcesses()) == 0 })
}
