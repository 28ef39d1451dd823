package gofer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

const (
	// gcPercent is Go's own default.
	gcPercent = 100
	// restedAfter is when garbage is first collected: what there is by then is needed, and would be gone through while a container starts.
	restedAfter = 500 * time.Millisecond
	// togetherFor is how long a gofer shares a CPU with the sandbox that it serves: from when it is ready until a container that
	// is started at once has started. See Sandbox.stayTogether in package boot.
	togetherFor = 200 * time.Millisecond
)

// Main is the gofer process. It returns when every connection has ended, when it
// was not needed, or with the reason why it could not serve, which Start's caller
// gets from Ready as well.
func Main() error {
	if err := spare.Check(); err != nil {
		return err
	}
	prepared := prepare()
	fds, err := spare.ReceiveFDs()
	if errors.Is(err, io.EOF) {
		return nil // not needed
	}
	if err != nil {
		return err
	}
	h, err := sortDescriptors(fds)
	if err != nil {
		return err
	}
	server, err := setUp(h, prepared)
	if err != nil {
		h.report(err.Error())
		return err
	}
	h.report(statusReady)
	server.serve()
	return nil
}

// stayTogether is best effort: without it a start only takes longer.
func stayTogether(cfg *childConfig) {
	if cfg.StartCPU == nil {
		return
	}
	allowed, err := spare.AllowedCPUs()
	if err != nil {
		log.Infof("%v", err)
		return
	}
	failed := func(err error) { log.Warningf("%v", err) }
	if err := allowed.TogetherFor(*cfg.StartCPU, togetherFor, failed); err != nil {
		log.Infof("%v", err)
	}
}

// prepare does all that does not depend on a configuration.
func prepare() error {
	if err := closeInherited(); err != nil {
		return err
	}
	// The sandbox has applied its own mask to the modes that it asks for.
	unix.Umask(0)
	if err := openDescriptorTable(); err != nil {
		return err
	}
	return mountRoot()
}

// setUp does everything else until requests may be answered, unless prepare has
// failed.
func setUp(h *handed, prepared error) (*server, error) {
	if err := unix.Dup3(h.log, 2, 0); err != nil {
		return nil, fmt.Errorf("adopt log: %w", err)
	}
	unix.Close(h.log)
	if prepared != nil {
		return nil, prepared
	}
	cfg, err := h.readConfig()
	if err != nil {
		return nil, err
	}
	if err := enterTree(cfg, h); err != nil {
		return nil, err
	}
	if err := dropPrivileges(cfg); err != nil {
		return nil, err
	}
	server, err := newServer(cfg, h)
	if err != nil {
		return nil, err
	}
	// Go makes what its timers need with the first one, which the filter would not let it.
	time.AfterFunc(restedAfter, func() { debug.SetGCPercent(gcPercent) })
	stayTogether(cfg)
	return server, installSeccomp(cfg)
}

// closeInherited closes the descriptors that survived the exec, but for the
// standard ones and the one that package spare uses. Those that the Go runtime has
// opened since are close-on-exec, so they did not.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list inherited descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= spare.LastInherited {
			continue
		}
		// One that is gone is the directory that was just read.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}
