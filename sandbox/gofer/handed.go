package gofer

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// handed are the descriptors that a gofer process is given, in this order. The
// process owns them.
type handed struct {
	log    int // becomes its standard error
	config int // childConfig as JSON
	status int // receives one word, see report
	mounts []handedMount
}

// handedMount are those of one mount.
type handedMount struct {
	socket int // the gofer's end
	tree   int // the detached mount
}

// descriptorsWithoutMounts is how many come before those of the mounts.
const descriptorsWithoutMounts = 3

// sortDescriptors tells apart what was handed over.
func sortDescriptors(fds []int) (*handed, error) {
	mounts := len(fds) - descriptorsWithoutMounts
	if mounts < 0 || mounts%2 != 0 {
		return nil, fmt.Errorf("gofer was handed %d descriptors, want %d and two a mount", len(fds), descriptorsWithoutMounts)
	}
	h := &handed{log: fds[0], config: fds[1], status: fds[2]}
	for fds = fds[descriptorsWithoutMounts:]; len(fds) > 0; fds = fds[2:] {
		h.mounts = append(h.mounts, handedMount{socket: fds[0], tree: fds[1]})
	}
	return h, nil
}

// readConfig reads the configuration, and checks that it is for these mounts.
func (h *handed) readConfig() (*childConfig, error) {
	f := os.NewFile(uintptr(h.config), "configuration")
	defer f.Close()
	cfg, err := readChildConfig(f)
	if err == nil && len(cfg.Mounts) != len(h.mounts) {
		err = fmt.Errorf("gofer configuration has %d mounts, and %d were handed over", len(cfg.Mounts), len(h.mounts))
	}
	return cfg, err
}

// report tells Ready the outcome and closes the way to it. Nobody may be
// listening any more, so errors do not count.
func (h *handed) report(text string) {
	unix.Write(h.status, []byte(text)[:min(len(text), maxStatusBytes)])
	unix.Close(h.status)
}
