package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// Exec starts a further process in a running container and returns its PID
// inside. files are its streams: three, or one terminal slave, and any more
// become 3, 4, …; the caller keeps them.
func (s *Sandbox) Exec(ctx context.Context, process *specs.Process, files []*os.File) (int32, error) {
	if err := s.need(ctx, "exec in", specs.StateRunning); err != nil {
		return 0, err
	}
	args := &control.ExecArgs{FilePayload: urpc.FilePayload{Files: files}, Which: s.which(), Process: *process}
	var result control.ExecResult
	if err := s.call(ctx, control.MethodExec, args, &result); err != nil {
		return 0, fmt.Errorf("exec in sandbox %q: %w", s.ID, err)
	}
	return result.PID, nil
}

// WaitProcess blocks until a process inside has ended and returns its exit
// status. Where the whole container ends first, that is SIGKILL's status; where it
// migrates, that is an ErrMigrated.
func (s *Sandbox) WaitProcess(ctx context.Context, pid int32) (int, error) {
	var result control.WaitResult
	err := control.Call(ctx, s.processDir(), 0, control.MethodWait, &control.WaitArgs{Which: s.which(), PID: pid}, &result)
	if errors.Is(err, control.ErrUnreachable) && s.Sandbox.wait(ctx) == nil {
		if err := s.migratedError(); err != nil {
			return 0, err
		}
		return 128 + int(unix.SIGKILL), nil
	}
	if err != nil {
		return 0, fmt.Errorf("wait for process %d of sandbox %q: %w", pid, s.ID, err)
	}
	return result.Status, nil
}
