package gofer

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// gcPercent is Go's own default.
const gcPercent = 100

// Main is the gofer process. It returns when every connection has ended, or
// with the reason why it could not serve, which Start's caller gets from Ready
// as well.
func Main() error {
	server, err := setUp()
	if err != nil {
		report(err.Error())
		return err
	}
	report(statusReady)
	debug.SetGCPercent(gcPercent)
	server.serve()
	return nil
}

// setUp does everything until requests may be answered.
func setUp() (*server, error) {
	cfg, err := inherit()
	if err != nil {
		return nil, err
	}
	if err := openDescriptorTable(); err != nil {
		return nil, err
	}
	if err := enterTree(cfg); err != nil {
		return nil, err
	}
	// The sandbox has applied its own mask to the modes that it asks for.
	unix.Umask(0)
	if err := dropPrivileges(cfg); err != nil {
		return nil, err
	}
	server, err := newServer(cfg)
	if err != nil {
		return nil, err
	}
	return server, installSeccomp(cfg)
}

// inherit reads the configuration and closes every descriptor that the process
// was not meant to have.
func inherit() (*childConfig, error) {
	f := os.NewFile(configFD, "configuration")
	defer f.Close()
	cfg, err := readChildConfig(f)
	if err != nil {
		return nil, err
	}
	return cfg, closeInheritedFrom(firstMountFD + 2*len(cfg.Mounts))
}

// closeInheritedFrom closes the descriptors from first on that survived the
// exec. Those that the Go runtime has opened since are close-on-exec, so they
// did not.
func closeInheritedFrom(first int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list inherited descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < first {
			continue
		}
		// One that is gone is the directory that was just read.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// report tells Ready the outcome and closes the way to it. Nobody may be
// listening any more, so errors do not count.
func report(text string) {
	unix.Write(statusFD, []byte(text)[:min(len(text), maxStatusBytes)])
	unix.Close(statusFD)
}

// socketFD and treeFD are the descriptors of the i-th mount.
func socketFD(i int) int { return firstMountFD + 2*i }
func treeFD(i int) int   { return firstMountFD + 2*i + 1 }
