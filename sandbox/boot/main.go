package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Hooks are what package boot is handed by the command, since it may not
// import the packages above it.
type Hooks struct {
	// Load loads a saved kernel; needed where Config.Restore is set.
	Load func(*Loading) (*kernel.Kernel, error)
	// Services returns further objects to serve on the control socket beside
	// Lifecycle.
	Services func(*Sandbox) []any
}

// exitFailed is the exit status of a sandbox process that never got to run its
// container.
const exitFailed = 1

// Main is the body of a sandbox process. It returns the status to exit with.
func Main(hooks Hooks) int {
	platform := ""
	if len(os.Args) > platformArg {
		platform = os.Args[platformArg]
	}
	if err := spare.Check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	h, hostErr := prepare(platform)
	list, err := spare.Receive()
	if errors.Is(err, io.EOF) {
		return exitFailed // not needed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	cfg, files, err := sortFiles(list)
	var s *Sandbox
	if err = errors.Join(hostErr, err); err == nil {
		s, err = open(h, cfg, files, hooks)
	}
	if err == nil {
		garbage.bound(restingBytes(cfg))
	} else {
		garbage.release()
	}
	report := Report{}
	if err != nil {
		report.Error = err.Error()
	}
	if reportErr := writeJSON(files.Ready, report); reportErr != nil && err == nil {
		err = reportErr
	}
	files.Ready.Close()
	if err != nil {
		return exitFailed
	}
	status := s.exitCode()
	s.streams.drain()
	if err := writeJSON(files.Exit, ExitRecord{Status: status}); err != nil {
		log.Warningf("record exit status: %v", err)
	}
	return status
}

// platformArg is the index of the platform's name in the command line.
const platformArg = 3

// prepared is what a sandbox process has before it knows what will run in it.
type prepared struct {
	descriptors dirty.Descriptors
	platform    platform.Platform
}

// prepare does all that does not depend on a configuration, and above all leaves
// the host.
func prepare(platform string) (*prepared, error) {
	// Until there is a log there is nobody to read more than that.
	log.SetLevel(log.Warning)
	if err := closeInherited(); err != nil {
		return nil, err
	}
	descriptors, err := prepareHost()
	if err != nil {
		return nil, err
	}
	root, err := isolate()
	if err != nil {
		return nil, err
	}
	bare, err := newPlatform(platform)
	if err != nil {
		return nil, err
	}
	return &prepared{descriptors, bare}, root.seal()
}

// closeInherited closes what the command's caller left open for it, if its number is
// above those that package spare gives out. What this process has opened itself is below.
func closeInherited() error {
	if err := unix.CloseRange(spare.TableFD+1, math.MaxUint32, 0); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}

// open makes the process serve a sandbox that only waits to be started.
func open(h *prepared, cfg *Config, files *Files, hooks Hooks) (*Sandbox, error) {
	if err := adopt(files); err != nil {
		return nil, err
	}
	initLog(cfg)
	setTotalMemory(cfg.TotalMemory)
	memoryFD, err := unix.FcntlInt(files.Memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep memory file: %w", err)
	}
	s := &Sandbox{cfg: cfg, memory: os.NewFile(uintptr(memoryFD), "memory"), started: make(chan struct{}), first: newContainer(RootContainer, nil)}
	created := PhaseCreated
	s.phase.Store(&created)
	s.platform = newTracker(h.platform, h.descriptors, cfg.Tracking)
	if s.mf, err = newMemoryFile(files.Memory); err != nil {
		return nil, err
	}
	s.platform.SetMemoryFile(s.mf)
	srv, err := server.CreateFromFD(int(files.Control.Fd()))
	if err != nil {
		return nil, fmt.Errorf("serve control socket: %w", err)
	}
	if s.allowed, err = spare.AllowedCPUs(); err != nil {
		log.Infof("%v", err)
	}
	trap := openTrap(files.Faults, s.platform)
	// From here on the gofer answers, a saved state is read, and in the end
	// guest code runs.
	if err := installSeccomp(filterParts{h.platform, files.Control.Fd(), h.descriptors}); err != nil {
		return nil, err
	}
	if cfg.Restore != nil {
		err = s.load(files, trap, hooks.Load)
	} else {
		err = s.build(files)
	}
	if err != nil {
		return nil, err
	}
	srv.Register(&Lifecycle{s: s})
	if hooks.Services != nil {
		for _, service := range hooks.Services(s) {
			srv.Register(service)
		}
	}
	if err := srv.StartServing(); err != nil {
		return nil, fmt.Errorf("serve control socket: %w", err)
	}
	return s, nil
}

// adopt puts the files that need a certain descriptor number in their place: the
// log, and the control socket, which the seccomp filter knows by its number.
func adopt(files *Files) error {
	for _, n := range []int{1, 2} {
		if err := unix.Dup3(int(files.Log.Fd()), n, 0); err != nil {
			return fmt.Errorf("adopt log: %w", err)
		}
	}
	files.Log.Close()
	if err := unix.Dup3(int(files.Control.Fd()), controlFD, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("adopt control socket: %w", err)
	}
	files.Control.Close()
	files.Control = os.NewFile(controlFD, "control")
	return nil
}

// initLog sends gVisor's log to standard error, which is the sandbox's log
// file.
func initLog(cfg *Config) {
	log.SetTarget(&log.GoogleEmitter{Writer: &log.Writer{Next: os.Stderr}})
	log.SetLevel(log.Warning)
	if cfg.Debug {
		log.SetLevel(log.Debug)
	}
}

func writeJSON(f *os.File, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return err
}
