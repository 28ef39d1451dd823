package boot

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
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
	cfg, files, err := inherit()
	var s *Sandbox
	if err == nil {
		initLog(cfg)
		s, err = open(cfg, files, hooks)
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

// open isolates the process and makes it serve a sandbox that only waits to be
// started.
func open(cfg *Config, files *Files, hooks Hooks) (*Sandbox, error) {
	descriptors, err := prepareHost(cfg.TotalMemory)
	if err != nil {
		return nil, err
	}
	memoryFD, err := unix.FcntlInt(files.Memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep memory file: %w", err)
	}
	root, err := isolate()
	if err != nil {
		return nil, err
	}
	s := &Sandbox{cfg: cfg, memory: os.NewFile(uintptr(memoryFD), "memory"), ended: make(chan struct{}), terminalFD: -1}
	created := PhaseCreated
	s.phase.Store(&created)
	bare, err := newPlatform(cfg.Platform)
	if err != nil {
		return nil, err
	}
	s.platform = newTracker(bare, descriptors, cfg.Tracking)
	if err := root.seal(); err != nil {
		return nil, err
	}
	if s.mf, err = newMemoryFile(files.Memory); err != nil {
		return nil, err
	}
	s.platform.SetMemoryFile(s.mf)
	srv, err := server.CreateFromFD(int(files.Control.Fd()))
	if err != nil {
		return nil, fmt.Errorf("serve control socket: %w", err)
	}
	// From here on the gofer answers, a saved state is read, and in the end
	// guest code runs.
	if err := installSeccomp(filterParts{bare, files.Control.Fd(), descriptors}); err != nil {
		return nil, err
	}
	if cfg.Restore != nil {
		err = s.load(files, hooks.Load)
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
