package gofer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descriptors of a gofer process at its start. Mount i has its socket at
// firstMountFD+2*i and its detached tree behind that.
const (
	configFD     = 3
	statusFD     = 4
	firstMountFD = 5
)

// tableFD is a descriptor number that a gofer inherits as well, so that its
// descriptor table is large from the start. A process with several threads waits
// for a grace period of the host's kernel (5–10 ms) each time that its table
// grows, and a guest waits with it while it opens files. The gofer closes the
// descriptor itself with all else that it was not meant to have.
const tableFD = 1000

// goferNamespaces are new for each gofer. The network namespace stays empty.
const goferNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// goferEnvironment is all of a gofer's environment. The runtime would otherwise
// keep a descriptor of the cgroup's limits open, by which the process could
// change them. Main turns garbage collection on once the gofer serves: what is
// allocated before that is needed.
var goferEnvironment = []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0", "GOGC=off"}

// Start opens the sources and starts a gofer process that serves them. It
// returns as soon as the process exists; Ready waits until it serves. Ending ctx
// later does not end the process.
//
// The caller owns the returned process, and its Client files.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	ids, err := cfg.idMappings()
	if err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	l := &launch{}
	defer l.close()
	if err := l.prepare(cfg); err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	p, err := l.start(cfg.LogFile, ids)
	if err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	return p, nil
}

// launch holds the descriptors of a gofer that is being started. Until start
// succeeds it owns all of them.
type launch struct {
	null     *os.File
	config   *os.File
	status   [2]*os.File // reading end here, writing end in the gofer
	clients  []*os.File
	perMount []*os.File // socket and tree of each mount, by turns
}

// prepare fills l.
func (l *launch) prepare(cfg Config) (err error) {
	if l.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	if l.status[0], l.status[1], err = os.Pipe(); err != nil {
		return fmt.Errorf("make status pipe: %w", err)
	}
	var told childConfig
	for i, m := range cfg.Mounts {
		tree, mount, err := openSource(m)
		if err != nil {
			return fmt.Errorf("mount %d: source %q: %w", i, m.Source, err)
		}
		told.Mounts = append(told.Mounts, mount)
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			tree.Close()
			return fmt.Errorf("make socket pair: %w", err)
		}
		l.clients = append(l.clients, os.NewFile(uintptr(fds[0]), "gofer socket "+mountPath(i)))
		l.perMount = append(l.perMount, os.NewFile(uintptr(fds[1]), "gofer"), tree)
	}
	l.config, err = configFile(told)
	return err
}

// configFile returns an anonymous file with the configuration in it.
func configFile(told childConfig) (*os.File, error) {
	data, err := json.Marshal(told)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("gofer-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make configuration file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "gofer-config")
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return f, nil
}

// start runs this program again as a gofer. On success the process owns what
// it needs of l.
func (l *launch) start(log *os.File, ids idMappings) (*Process, error) {
	if log == nil {
		log = l.null
	}
	attr := &os.ProcAttr{
		Dir:   "/",
		Env:   goferEnvironment,
		Files: l.inherited(log),
		Sys: &syscall.SysProcAttr{
			Cloneflags: goferNamespaces,
			// Out of reach of the terminal of the command that starts it.
			Setsid: true,
			// No supplementary groups; root of the new user namespace, if any.
			Credential: &syscall.Credential{},
		},
	}
	ids.apply(attr.Sys)
	process, err := startLimited(attr)
	if err != nil {
		return nil, err
	}
	p := &Process{Client: l.clients, PID: process.Pid, process: process, status: l.status[0]}
	l.clients, l.status[0] = nil, nil
	return p, nil
}

// inherited returns the files of a gofer process by descriptor number.
func (l *launch) inherited(log *os.File) []*os.File {
	files := append([]*os.File{l.null, l.null, log, l.config, l.status[1]}, l.perMount...)
	if len(files) <= tableFD {
		files = append(files, make([]*os.File, tableFD-len(files))...)
		files = append(files, l.null)
	}
	return files
}

// startLimited starts the process from a thread that has only the capabilities
// in its bounding set that a gofer ever needs. Dropping them here costs nothing,
// while in the gofer it would stop all its threads once for each. (A new user
// namespace has them all again, and the gofer then does drop them.)
func startLimited(attr *os.ProcAttr) (process *os.Process, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked, so that the thread ends with this goroutine.
		runtime.LockOSThread()
		if err = limitCapabilities(setupCapabilities|readCapabilities|writeCapabilities, dropThread); err == nil {
			process, err = os.StartProcess("/proc/self/exe", []string{os.Args[0], Subcommand}, attr)
		}
	}()
	<-done
	return process, err
}

// close closes what l still owns.
func (l *launch) close() {
	files := append([]*os.File{l.null, l.config, l.status[0], l.status[1]}, l.clients...)
	for _, f := range append(files, l.perMount...) {
		if f != nil {
			f.Close()
		}
	}
}
