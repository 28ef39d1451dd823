package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/user"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// exec starts a further process in a container's namespaces and returns its PID
// there. Its streams are as restorable as the container's own, under a
// session name of their own: a restored kernel finds them leading nowhere.
func (s *Sandbox) exec(in *control.ExecArgs) (kernel.ThreadID, error) {
	s.execMu.RLock()
	defer s.execMu.RUnlock()
	if phase := s.Phase(); phase != PhaseRunning {
		return 0, fmt.Errorf("cannot exec: container is %s, want %s", phase, PhaseRunning)
	}
	c, err := s.container(in.Container)
	if err != nil {
		return 0, err
	}
	if !c.running() {
		return 0, fmt.Errorf("cannot exec: container is %s, want %s", c.status(PhaseRunning), PhaseRunning)
	}
	stdio := 3
	if in.Process.Terminal {
		stdio = 1
	}
	if len(in.Files) < stdio {
		return 0, fmt.Errorf("exec was given %d streams, want %d", len(in.Files), stdio)
	}
	args, err := newProcessArgs(s.kernel, c.name, &in.Process)
	if err != nil {
		return 0, err
	}
	args.Origin = kernel.OriginExec
	args.PIDNamespace = c.process.PIDNamespace()
	ns := c.process.Leader().MountNamespace()
	if ns == nil || !ns.TryIncRef() {
		return 0, errStopped
	}
	// CreateProcess consumes the reference, even where it fails.
	args.MountNamespace = ns
	return s.execIn(&args, in, stdio)
}

func (s *Sandbox) execIn(args *kernel.CreateProcessArgs, in *control.ExecArgs, stdio int) (_ kernel.ThreadID, err error) {
	created := false
	supervisor := s.kernel.SupervisorContext()
	defer func() {
		if !created {
			args.MountNamespace.DecRef(supervisor)
		}
	}()
	root := args.MountNamespace.Root(supervisor)
	defer root.DecRef(supervisor)
	ctx := vfs.WithRoot(args.NewContext(s.kernel), root)

	args.Envv, err = user.MaybeAddExecUserHome(ctx, args.MountNamespace, args.Credentials.RealKUID, args.Envv)
	if err != nil {
		return 0, fmt.Errorf("look up home directory: %w", err)
	}
	args.Filename, err = user.ResolveExecutablePath(ctx, args)
	if err != nil {
		return 0, fmt.Errorf("find %q in the container: %w", args.Argv[0], err)
	}
	session := s.newSession()
	s.streams.forget(in.Files)
	// The call closes its own files when it returns; the streams own copies.
	files, err := copyFiles(in.Files)
	if err != nil {
		return 0, err
	}
	table, tty, err := s.importStreams(args, session, files[:stdio], files[stdio:], in.Process.Terminal)
	if err != nil {
		return 0, err
	}
	defer table.DecRef(ctx)
	args.FDTable = table
	if tty != nil {
		args.TTY = tty
	}
	created = true
	tg, _, err := s.kernel.CreateProcess(*args)
	if err != nil {
		return 0, fmt.Errorf("execute %q: %w", args.Filename, err)
	}
	pid := args.PIDNamespace.IDOfThreadGroup(tg)
	s.remember(processKey{args.ContainerID, int32(pid)}, execed{tg, session})
	s.kernel.StartProcess(tg)
	return pid, nil
}

// maxExecs bounds how many execs are remembered that nobody waits for.
const maxExecs = 1024

// remember keeps an exec'd process findable after its end, until somebody has
// waited for it or too many others have come.
func (s *Sandbox) remember(key processKey, e execed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.execs == nil {
		s.execs = make(map[processKey]execed)
	}
	for old := range s.execs {
		if len(s.execs) < maxExecs {
			break
		}
		delete(s.execs, old)
	}
	s.execs[key] = e
}

// forget undoes remember.
func (s *Sandbox) forget(key processKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.execs, key)
}

// copyFiles duplicates files; the copies belong to the caller.
func copyFiles(files []*os.File) ([]*os.File, error) {
	copies := make([]*os.File, 0, len(files))
	for _, f := range files {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			return nil, fmt.Errorf("copy stream: %w", err)
		}
		copies = append(copies, os.NewFile(uintptr(fd), f.Name()))
	}
	return copies, nil
}
