package spare

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// Subcommand is the hidden first argument with which the binary runs itself as a
// sandbox process. A label and the platform's name, which may be empty, follow.
const Subcommand = "sandbox-boot"

// nobodyID is the user and group that a sandbox process is on the host: root in
// its own user namespace, and nobody outside of it.
const nobodyID = 65534

// quickPlatform is the platform, the default, that needs no private expedited memory barrier.
const quickPlatform = "systrap"

const (
	// socketFD is the child's end of the socket pair.
	socketFD = 3
	// LastInherited is the last descriptor that a process inherits for its own use;
	// what is above can be closed.
	LastInherited = socketFD
	// TableFD is a descriptor number that the child inherits as well (the null
	// device is behind it), so that its descriptor table is large from the start. A
	// process with several threads waits for a grace period of the host's kernel
	// (5–10 ms) each time that its table grows, and a guest waits with it while it
	// opens files.
	TableFD = 1002
)

// environment is all of a process's environment. Go would keep the cgroup's limit
// files open, as descriptors of the host's file system in a process that must have
// none. The process turns garbage collection on when it is ready: what is allocated
// before that is needed.
var environment = []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GOGC=off"}

// Process is a process that waits for its descriptors.
type Process struct {
	process *os.Process
	socket  int // ours; -1 once closed
	label   string
	early   bool // Prepare has started it
}

// Start starts a sandbox process. label says in the host's process list which
// sandbox it is; errors receives what it says before it was given a log.
func Start(label, platform string, errors *os.File) (*Process, error) {
	return startSandbox(label, platform, errors, func(argv []string, attr *os.ProcAttr) (*os.Process, error) {
		return os.StartProcess(self, argv, attr)
	})
}

// startSandbox is Start with the way to start a process.
func startSandbox(label, platform string, errors *os.File, run func([]string, *os.ProcAttr) (*os.Process, error)) (*Process, error) {
	p, err := start(errors, func(attr *os.ProcAttr) (*os.Process, error) {
		if platform == "" || platform == quickPlatform {
			SkipBarrierRegistration()
		}
		attr.Sys = attributes()
		return run([]string{"sbxmigrate", Subcommand, label, platform}, attr)
	})
	if err != nil {
		return nil, fmt.Errorf("start sandbox process: %w", err)
	}
	p.label = label
	return p, nil
}

// self is this program, whatever has become of its file.
const self = "/proc/self/exe"

// start has run start a process that inherits a socket and little else. It is called on a
// thread of its own, which ends with it: what it changes of the thread reaches the new
// process and nobody else.
func start(errors *os.File, run func(*os.ProcAttr) (*os.Process, error)) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	files := make([]*os.File, TableFD+1)
	copy(files, []*os.File{null, errors, errors, socketFD: theirs})
	files[TableFD] = null
	var process *os.Process
	onOwnThread(func() { process, err = run(&os.ProcAttr{Env: environment, Files: files}) })
	if err != nil {
		syscall.Close(pair[0])
		return nil, err
	}
	return &Process{process: process, socket: pair[0]}, nil
}

// onOwnThread calls f on a thread that ends with it, so that what f changes of the thread concerns nobody else.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked, so that the thread ends with this goroutine.
		runtime.LockOSThread()
		f()
	}()
	<-done
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

// Process is the process itself, to be signalled and waited for.
func (p *Process) Process() *os.Process { return p.process }

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
