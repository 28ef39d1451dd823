package spare

import (
	"fmt"
	"os"
	"syscall"
)

// GoferSubcommand is the hidden first argument with which the binary runs itself as
// a gofer.
const GoferSubcommand = "sandbox-gofer"

// goferNamespaces are new for each gofer. The network namespace stays empty.
const goferNamespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC |
	syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP

// Mappings are those of a gofer's user namespace; none means the caller's own.
type Mappings struct {
	UID, GID []syscall.SysProcIDMap
}

// GoferCapabilities, a bit set, are all that a gofer ever needs: to change and to read
// files for other owners (CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID), and
// until it serves to build its tree and to drop the rest (SYS_ADMIN, SETPCAP). It keeps
// fewer, see package gofer.
const GoferCapabilities = uint64(1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<21 | 1<<8)

// StartGofer starts a gofer. Its bounding set is GoferCapabilities: to drop the others
// here costs nothing, while in the gofer it would stop all its threads once for each. (A
// new user namespace has them all again, and the gofer then does drop them.) errors
// receives what it says before it was given a log.
func StartGofer(ids Mappings, errors *os.File) (*Process, error) {
	p, err := start(errors, func(attr *os.ProcAttr) (*os.Process, error) {
		if err := limitCapabilities(GoferCapabilities); err != nil {
			return nil, err
		}
		SkipBarrierRegistration()
		attr.Dir = "/"
		attr.Files[1] = attr.Files[0] // it prints nothing
		attr.Sys = goferAttributes(ids)
		return os.StartProcess(self, []string{os.Args[0], GoferSubcommand}, attr)
	})
	if err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	return p, nil
}

func goferAttributes(ids Mappings) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: goferNamespaces,
		// Out of reach of the terminal of the command that starts it.
		Setsid: true,
		// No supplementary groups; root of the new user namespace, if any.
		Credential: &syscall.Credential{},
	}
	if len(ids.UID) > 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings, attr.GidMappings = ids.UID, ids.GID
		attr.GidMappingsEnableSetgroups = true
	}
	return attr
}
