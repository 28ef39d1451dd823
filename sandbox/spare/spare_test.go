package spare

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childFailed is the exit status of a child that received something wrong.
const childFailed = 3

// TestMain is the sandbox process and the gofer too: the first file that it is given takes what
// it has to say, and all others say their number.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != Subcommand && os.Args[1] != GoferSubcommand {
		os.Exit(m.Run())
	}
	name := "gofer"
	if os.Args[1] == Subcommand {
		name = os.Args[2]
	}
	if err := Check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(childFailed)
	}
	files, err := Receive()
	if errors.Is(err, io.EOF) {
		os.Exit(0)
	}
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(childFailed)
	}
	for i, f := range files[1:] {
		data := make([]byte, 16)
		n, err := f.ReadAt(data, 0)
		if got, _ := strconv.Atoi(string(data[:n])); got != i+1 {
			fmt.Fprintf(files[0], "file %d says %q, %v\n", i+1, data[:n], err)
		}
	}
	fmt.Fprintf(files[0], "%d files as %s of uid %d\n", len(files), name, os.Getuid())
	os.Exit(0)
}

// give hands p one file for its answer and n more, and returns the answer.
func give(t *testing.T, p *Process, n int) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := []*os.File{w}
	dir := t.TempDir()
	for i := range n {
		f, err := os.Create(fmt.Sprintf("%s/%d", dir, i+1))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprint(f, i+1)
		files = append(files, f)
	}
	if err := p.Give(files); err != nil {
		t.Fatal(err)
	}
	w.Close()
	answer, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestGive(t *testing.T) {
	for _, n := range []int{0, 1, maxPerMessage - 1, maxPerMessage, 3 * maxPerMessage} {
		p, err := Start("label", "", os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%d files as label of uid 0\n", n+1)
		if got := give(t, p, n); got != want {
			t.Errorf("child says %q, want %q", got, want)
		}
		if state := p.Wait(); state != "exit status 0" {
			t.Errorf("child ended with %s", state)
		}
	}
}

// A process that is placed is placed before it does anything, and then works as any other.
func TestStartPlaced(t *testing.T) {
	placed := 0
	p, err := StartPlaced("label", "", os.Stderr, func(pid int) error {
		placed = pid
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") t ") { // stopped by its tracer
			err = fmt.Errorf("it is not stopped: %s", stat)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if placed != p.PID() {
		t.Errorf("process %d was placed, want %d", placed, p.PID())
	}
	if got, want := give(t, p, 1), "2 files as label of uid 0\n"; got != want {
		t.Errorf("child says %q, want %q", got, want)
	}
	p.Wait()
	failure := errors.New("no place")
	if _, err := StartPlaced("label", "", os.Stderr, func(int) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("placing it nowhere: %v", err)
	}
}

func TestGiveToTheDead(t *testing.T) {
	p, err := Start("label", "", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	p.process.Kill()
	p.Wait()
	if err := p.Give([]*os.File{os.Stderr}); err == nil {
		t.Error("giving to a process that has ended succeeds")
	}
}

func TestUnusedProcessEndsByItself(t *testing.T) {
	p, err := Start("label", "", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	p.closeSocket() // as the end of this process would
	if state := p.Wait(); state != "exit status 0" {
		t.Errorf("child ended with %s", state)
	}
}

func TestTakeAndDiscard(t *testing.T) {
	Discard() // nothing is prepared yet
	Prepare("prepared")
	if Take("another") != nil {
		t.Error("what was prepared for one is taken for another")
	}
	p := Take("prepared")
	if p == nil || !p.Early() {
		t.Fatalf("what was prepared is %+v", p)
	}
	if Take("prepared") != nil {
		t.Error("taken twice")
	}
	if got, want := give(t, p, 0), "1 files as prepared of uid 0\n"; got != want {
		t.Errorf("child says %q, want %q", got, want)
	}
	p.Wait()

	gofer := TakeGofer()
	if gofer == nil || !gofer.Early() {
		t.Fatalf("the gofer that was prepared is %+v", gofer)
	}
	if TakeGofer() != nil {
		t.Error("the gofer is taken twice")
	}
	if got, want := give(t, gofer, 0), "1 files as gofer of uid 0\n"; got != want {
		t.Errorf("gofer says %q, want %q", got, want)
	}
	gofer.Wait()

	Prepare("discarded")
	left := prepared.process
	DiscardAll()
	if TakeGofer() != nil {
		t.Error("the gofer that was discarded can be taken")
	}
	if Take("discarded") != nil {
		t.Error("what was discarded can be taken")
	}
	if state := left.Wait(); state == "exit status 0" {
		t.Error("the discarded process was not collected")
	}
}

// What a process is started with makes it believe that it has registered for memory barriers, and allows it all other commands.
func TestBarrierRegistrationIsSkipped(t *testing.T) {
	_, number, _ := calls()
	if number == 0 {
		t.Skip("NOT TESTED: nobody has looked up how this architecture calls membarrier(2)")
	}
	const query, privateExpedited = 0, 8
	onOwnThread(func() {
		call := func(command uintptr) (uintptr, syscall.Errno) {
			result, _, errno := syscall.RawSyscall(uintptr(number), command, 0, 0)
			return result, errno
		}
		SkipBarrierRegistration()
		if result, errno := call(query); errno != 0 || result == 0 {
			t.Errorf("query: %x, %v", result, errno)
		}
		if result, errno := call(membarrierRegisterPrivateExpedited); errno != 0 || result != 0 {
			t.Errorf("register: %x, %v", result, errno)
		}
		if _, errno := call(privateExpedited); errno != syscall.EPERM {
			t.Errorf("a barrier without registration: %v, want %v", errno, syscall.EPERM)
		}
	})
}

// A process that somebody else has started does nothing to the namespaces that it is in.
func TestCheck(t *testing.T) {
	for _, subcommand := range []string{Subcommand, GoferSubcommand} {
		out, err := exec.Command(self, subcommand, "label").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not to be called by hand") {
			t.Errorf("%s: %v: %s", subcommand, err, out)
		}
	}
}
