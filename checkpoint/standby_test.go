package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
)

// openTraps counts the descriptors of traps that this process has.
func openTraps(t *testing.T) (count int) {
	t.Helper()
	list, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		if kind, err := os.Readlink(path); err == nil && kind == "anon_inode:[userfaultfd]" {
			count++
		}
	}
	return count
}

// A standby whose creation fails just as it says that it is ready leaves nothing open of what it gave.
func TestStandbyThatIsReadyTooLate(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	failed := errors.New("no sandbox")
	s := &Standby{standby: ours, created: make(chan struct{}), err: failed}
	close(s.created)
	if err := s.waitReady(); !errors.Is(err, failed) {
		t.Fatalf("got %v, want %v", err, failed)
	}
	trap, _, number := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if number != 0 {
		t.Fatalf("userfaultfd: %v", number)
	}
	before := openTraps(t)
	if err := unix.Sendmsg(int(theirs.Fd()), []byte{inside.StandbyReady}, unix.UnixRights(int(trap)), nil, 0); err != nil {
		t.Fatal(err)
	}
	taken := func() bool { // by whoever waited for it
		left, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCINQ)
		return err == nil && left == 0
	}
	for deadline := time.Now().Add(time.Minute); !taken() || openTraps(t) != before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d traps are open, %d before", openTraps(t), before)
		}
	}
	unix.Close(int(trap))
	if s.trap != nil {
		t.Error("the standby has a trap that nobody closes")
	}
}
