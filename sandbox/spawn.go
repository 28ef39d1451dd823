package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// nobodyID is the user and group that a sandbox process is on the host: root
// in its own user namespace, and nobody outside of it.
const nobodyID = 65534

// maxReportBytes bounds what a sandbox process says when it is ready.
const maxReportBytes = 1 << 20

// child is a sandbox process that has been started but has not reported yet.
type child struct {
	cmd   *exec.Cmd
	ready *os.File // reads its boot.Report
}

// spawn starts a sandbox process with cfg and files. It takes ownership of
// files; Config and Ready are filled in here. log receives its errors.
func spawn(cfg *boot.Config, files *boot.Files, log *os.File) (*child, error) {
	defer closeFiles(files)
	cfg.Files = files.Layout()
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if files.Config, err = memoryFile("sandbox-config", data); err != nil {
		return nil, err
	}
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	files.Ready = readyChild
	cmd := exec.Command("/proc/self/exe", boot.Subcommand, cfg.ID)
	cmd.Args[0] = "sbxmigrate"
	// Go would keep the cgroup's limit files open, as descriptors of the host's
	// file system in a process that must have none.
	cmd.Env = []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = files.List()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A session of its own: what is typed at the command's terminal does
		// not reach the sandbox process.
		Setsid: true,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobodyID, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobodyID, Size: 1}},
		Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	}
	if err := cmd.Start(); err != nil {
		ready.Close()
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	return &child{cmd: cmd, ready: ready}, nil
}

// waitReady blocks until the sandbox process has reported, ended, or ctx has.
func (c *child) waitReady(ctx context.Context) (*boot.Report, error) {
	defer c.ready.Close()
	stop := context.AfterFunc(ctx, func() { c.ready.Close() })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(c.ready, maxReportBytes))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	var report boot.Report
	if err := json.Unmarshal(data, &report); err != nil {
		c.cmd.Process.Kill() // it may be there still, and say nonsense
		c.cmd.Wait()
		return nil, fmt.Errorf("%w: it ended without a word (%s), see its log", ErrBoot, c.cmd.ProcessState)
	}
	if report.Error != "" {
		return nil, fmt.Errorf("%w: %s", ErrBoot, report.Error)
	}
	return &report, nil
}

// memoryFile returns a file in memory with data in it, to be read from its
// beginning.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
		f.Close()
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// newMemory returns the memfd that will hold all of a sandbox's memory. It can
// never shrink: whoever maps it would otherwise be killed by a guest that makes
// its kernel truncate it.
func newMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("sandbox-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create sandbox memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("seal sandbox memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "sandbox-memory"), nil
}

func closeFiles(files *boot.Files) {
	for _, f := range files.List() {
		if f != nil {
			f.Close()
		}
	}
}
