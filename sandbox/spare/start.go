package spare

import (
	"fmt"
	"os"
	"syscall"
)

// Subcommand is the hidden first argument with which the binary runs itself as a
// sandbox process. A label and the platform's name, which may be empty, follow.
const Subcommand = "sandbox-boot"

// nobodyID is the user and group that a sandbox process is on the host: root in
// its own user namespace, and nobody outside of it.
const nobodyID = 65534

const (
	// socketFD is the child's end of the socket pair.
	socketFD = 3
	// TableFD is a descriptor number that the child inherits as well (the null
	// device is behind it), so that its descriptor table is large from the start. A
	// process with several threads waits for a grace period of the host's kernel
	// (5–10 ms) each time that its table grows, and a guest waits with it while it
	// opens files.
	TableFD = 1002
)

// environment is all of a sandbox process's environment. Go would keep the
// cgroup's limit files open, as descriptors of the host's file system in a process
// that must have none. The process turns garbage collection on when it has booted:
// what is allocated before that is needed.
var environment = []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GOGC=off"}

// Process is a sandbox process that waits for its descriptors.
type Process struct {
	process *os.Process
	socket  int // ours; -1 once closed
	label   string
	early   bool // Prepare has started it
}

// Start starts a sandbox process. label says in the host's process list which
// sandbox it is; errors receives what it says before it was given a log.
func Start(label, platform string, errors *os.File) (*Process, error) {
	return start(label, platform, errors, func(attr *os.ProcAttr, argv []string) (*os.Process, error) {
		return os.StartProcess("/proc/self/exe", argv, attr)
	})
}

// start is Start with the way to start a process.
func start(label, platform string, errors *os.File, run func(*os.ProcAttr, []string) (*os.Process, error)) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair for sandbox process: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "sandbox process")
	defer theirs.Close()
	files := make([]*os.File, TableFD+1)
	copy(files, []*os.File{null, errors, errors, socketFD: theirs})
	files[TableFD] = null
	attr := &os.ProcAttr{Env: environment, Files: files, Sys: attributes()}
	process, err := run(attr, []string{"sbxmigrate", Subcommand, label, platform})
	if err != nil {
		syscall.Close(pair[0])
		return nil, fmt.Errorf("start sandbox process: %w", err)
	}
	return &Process{process: process, socket: pair[0], label: label}, nil
}

// neededFiles is how high descriptor numbers become while a process is started: above
// its table, the starting thread keeps the files that go into it.
const neededFiles = TableFD + 16

// CheckFileLimit refuses a limit on descriptors with which Start, or a gofer's start,
// would fail for a bad descriptor.
func CheckFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit on open files: %w", err)
	}
	if limit.Cur < neededFiles {
		return fmt.Errorf("limit of %d open files (RLIMIT_NOFILE) is too low for a sandbox process: allow at least %d", limit.Cur, neededFiles)
	}
	return nil
}

func attributes() *syscall.SysProcAttr {
	nobody := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobodyID, Size: 1}}
	return &syscall.SysProcAttr{
		// A session of its own: what is typed at the command's terminal does not
		// reach the sandbox process.
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		UidMappings: nobody,
		GidMappings: nobody,
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
}

// Early says that the process was prepared, so that what it said when it failed
// went to the command's standard error.
func (p *Process) Early() bool { return p.early }

// PID is the process's ID in the caller's PID namespace.
func (p *Process) PID() int { return p.process.Pid }

// Kill ends the process at once.
func (p *Process) Kill() {
	p.closeSocket()
	p.process.Kill()
}

// Wait waits until the process has ended and says how. Once: it is collected then.
func (p *Process) Wait() string {
	state, err := p.process.Wait()
	if err != nil {
		return err.Error()
	}
	return state.String()
}

func (p *Process) closeSocket() {
	if p.socket >= 0 {
		syscall.Close(p.socket)
		p.socket = -1
	}
}
