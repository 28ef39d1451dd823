package boot

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/sentry/fdimport"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// build makes a new kernel with the first container's process in it, not yet
// running. The error names the part of the spec that is at fault.
func (s *Sandbox) build(files *Files) error {
	// For the first process. What is made too late is there for the second.
	go s.prewarmOne()
	packetFDs, err := releaseAll(files.Packet)
	if err != nil {
		return err
	}
	s.kernel, s.gates, err = newKernel(s.platform, s.mf, s.cfg, packetFDs)
	if err != nil {
		return err
	}
	args, err := newProcessArgs(s.kernel, RootContainer, s.cfg.Spec.Process)
	if err != nil {
		return err
	}
	goferFDs, err := releaseAll(files.Gofer)
	if err != nil {
		return err
	}
	if err := s.mountAll(&args, s.cfg.Spec.Linux, s.cfg.Mounts, goferFDs); err != nil {
		return err
	}
	return s.createFirstProcess(s.first, &args, s.cfg.Spec.Process, files.Stdio, files.Preserved)
}

// mountAll builds a container's mount namespace into args, as root whoever the
// container's user is. It owns goferFDs.
func (s *Sandbox) mountAll(args *kernel.CreateProcessArgs, linux *specs.Linux, list *mounts.List, goferFDs []int) (err error) {
	rootArgs := *args
	rootArgs.Credentials = auth.NewRootCredentials(args.Credentials.UserNamespace)
	rootArgs.WorkingDirectory = "/"
	m := &mounter{
		k: s.kernel, container: args.ContainerID, creds: rootArgs.Credentials,
		ctx: rootArgs.NewContext(s.kernel), goferFDs: goferFDs,
	}
	defer func() {
		for _, fd := range m.goferFDs {
			unix.Close(fd)
		}
	}()
	ns, err := m.mountAll(list)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ns.DecRef(m.ctx)
		}
	}()
	args.MountNamespace = ns
	if linux != nil {
		if err := m.maskPaths(ns, linux.MaskedPaths); err != nil {
			return err
		}
		if err := m.protectPaths(ns, linux.ReadonlyPaths); err != nil {
			return err
		}
	}
	return m.makeWorkingDirectory(ns, args.WorkingDirectory)
}

// createFirstProcess creates a container's first process with its streams. It
// owns the files, and the mount namespace of args.
func (s *Sandbox) createFirstProcess(c *container, args *kernel.CreateProcessArgs, process *specs.Process, stdio, preserved []*os.File) error {
	ctx := args.NewContext(s.kernel)
	created := false
	defer func() {
		if !created {
			args.MountNamespace.DecRef(ctx)
		}
	}()
	if err := c.rememberTerminal(process.Terminal, stdio); err != nil {
		return err
	}
	table, tty, err := s.importStreams(args, c.name, stdio, preserved, process.Terminal)
	if err != nil {
		return err
	}
	defer table.DecRef(ctx)
	args.FDTable = table
	if tty != nil {
		args.TTY = tty
	}

	args.Envv, err = user.MaybeAddExecUserHome(ctx, args.MountNamespace, args.Credentials.RealKUID, args.Envv)
	if err != nil {
		return fmt.Errorf("look up home directory: %w", err)
	}
	args.Filename, err = user.ResolveExecutablePath(ctx, args)
	if err != nil {
		return fmt.Errorf("process.args: find %q in the container: %w", args.Argv[0], err)
	}
	created = true // it takes the namespace, even where it fails
	tg, _, err := s.kernel.CreateProcess(*args)
	if err != nil {
		return fmt.Errorf("process.args: execute %q: %w", args.Filename, err)
	}
	c.setProcess(tg)
	return nil
}

// importStreams puts files into a new descriptor table: one terminal for 0, 1
// and 2, or three streams, then preserved from 3 on. It owns the files.
func (s *Sandbox) importStreams(args *kernel.CreateProcessArgs, session string, stdio, preserved []*os.File, terminal bool) (*kernel.FDTable, *kernel.TTY, error) {
	ctx := args.NewContext(s.kernel)
	hostFDs := make(map[int]*fd.FD)
	for i, f := range append(append([]*os.File{}, stdio...), preserved...) {
		n := i
		if terminal && i >= len(stdio) {
			n = 3 + i - len(stdio)
		}
		hostFD, err := s.streams.give(session, f, false)
		if err != nil {
			return nil, nil, err
		}
		hostFDs[n] = fd.New(hostFD)
		if err := s.streams.hold(session, n, hostFD); err != nil {
			return nil, nil, err
		}
	}
	if terminal {
		// One terminal serves all three; the copies only have to exist.
		for n := 1; n <= 2; n++ {
			dup, err := unix.Dup(hostFDs[0].FD())
			if err != nil {
				return nil, nil, err
			}
			hostFDs[n] = fd.New(dup)
		}
	}
	table := s.kernel.NewFDTable()
	tty, err := fdimport.Import(ctx, table, hostFDs, fdimport.ImportOptions{
		Console:       terminal,
		Restorable:    true,
		UID:           args.Credentials.EffectiveKUID,
		GID:           args.Credentials.EffectiveKGID,
		ContainerName: session,
		SupportTTYs:   true,
	})
	for _, hostFD := range hostFDs {
		hostFD.Close() // released ones are not closed
	}
	if err != nil {
		table.DecRef(ctx)
		return nil, nil, fmt.Errorf("import streams: %w", err)
	}
	if tty == nil {
		return table, nil, nil
	}
	return table, tty.TTY(), nil
}

// releaseAll gives up files and returns their descriptors, owned by the
// caller.
func releaseAll(files []*os.File) ([]int, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		n, err := release(f)
		if err != nil {
			return nil, err
		}
		fds[i] = n
	}
	return fds, nil
}
