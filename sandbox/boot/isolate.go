package boot

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// mapsPath is the one file that systrap reads by path when it starts: it looks
// for free space in its own address space.
const mapsPath = "/proc/self/maps"

// isolation is the file-system side of leaving the host: an empty root that
// still shows mapsPath until seal.
type isolation struct{}

// isolate moves the process into an empty root and drops every capability. It
// must run before anything that the guest influences, and while the process is
// still root in its user namespace. It applies to all threads.
//
// The new root holds a snapshot of mapsPath, since systrap insists on reading
// it; seal takes it away.
func isolate() (*isolation, error) {
	maps, err := os.ReadFile(mapsPath)
	if err != nil {
		return nil, err
	}
	// /proc is the one directory that is surely there to mount on.
	const newRoot = "/proc"
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("sandbox", newRoot, "tmpfs", flags, "size=1m,mode=0755"); err != nil {
		return nil, fmt.Errorf("mount empty root: %w", err)
	}
	if err := os.MkdirAll(newRoot+"/proc/self", 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(newRoot+mapsPath, maps, 0o400); err != nil {
		return nil, err
	}
	if err := os.Chdir(newRoot); err != nil {
		return nil, err
	}
	// With both arguments the same directory the old root ends up mounted on
	// top of the new one, from where it is detached (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, fmt.Errorf("enter empty root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return nil, fmt.Errorf("detach the host's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return nil, err
	}
	return &isolation{}, dropCapabilities()
}

// seal empties the root for good.
func (*isolation) seal() error {
	for _, path := range []string{mapsPath, "/proc/self", "/proc"} {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("empty the sandbox process's root: %w", err)
		}
	}
	return os.Chmod("/", 0o555)
}

// dropCapabilities empties all five capability sets of all threads and forbids
// gaining any by exec.
func dropCapabilities() error {
	if err := spare.LimitBoundingSet(0); err != nil {
		return err
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("clear ambient capabilities: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return capsetNone()
}

// capsetNone empties the effective, permitted and inheritable sets.
func capsetNone() error {
	header, data := noCapsArgs()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, header, data, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
