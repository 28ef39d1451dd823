package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

var (
	long = flag.Bool("long", false, "full sizes: redis with 1 GiB")
	keep = flag.Bool("keep", false, "keep the directories of failed tests, with their logs")
)

var (
	binary      string // the binary under test
	programsDir string // host directory with the guest programs, for guest.ProgramsDir
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *long {
		commandLimit = 10 * time.Minute
	}
	os.Exit(runAll(m))
}

// runAll is TestMain with deferred clean-up.
func runAll(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: these tests start sandboxes and need root; failing rather than testing nothing")
		return 1
	}
	dir, err := os.MkdirTemp("/var/tmp", "sbxmigrate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Guests that are not root must reach what is below.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}

	programsDir = filepath.Join(dir, "programs")
	if err := guest.WritePrograms(programsDir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	binary = filepath.Join(dir, "sbxmigrate")
	if err := provideBinary(binary); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}

	code := m.Run()
	// Each test ends its own sandboxes. What is left over has escaped its test: say so, and end it.
	for _, p := range binaryProcesses() {
		fmt.Fprintf(os.Stderr, "e2e: process %d is left over after all tests: %q\n", p.pid, p.cmdline)
		p.kill()
		code = max(code, 1)
	}
	return code
}

// provideBinary builds the binary, or links the one that SBXMIGRATE names.
func provideBinary(to string) error {
	if given := os.Getenv("SBXMIGRATE"); given != "" {
		return os.Symlink(given, to)
	}
	cmd := exec.Command("go", "build", "-o", to, "./cmd/sbxmigrate")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
