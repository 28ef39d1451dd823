package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hookPoint is a point in a sandbox's life at which the specification's hooks
// run on the host.
type hookPoint int

const (
	// hookCreateRuntime covers the deprecated prestart hooks too: both run
	// after the namespaces exist and before the container's program is looked
	// up.
	hookCreateRuntime hookPoint = iota
	hookPoststart
	hookPoststop
)

// runHooks runs the hooks of a point in their order. The first that fails ends
// the run and is the error, except after the stop: there all run.
func (s *Sandbox) runHooks(ctx context.Context, point hookPoint) error {
	spec, err := s.Spec()
	if err != nil || spec.Hooks == nil {
		return err
	}
	var hooks []specs.Hook
	status := specs.StateRunning
	switch point {
	case hookCreateRuntime:
		//lint:ignore SA1019 Specifications still have prestart hooks, and expect them to run.
		hooks, status = append(spec.Hooks.Prestart, spec.Hooks.CreateRuntime...), specs.StateCreating
	case hookPoststart:
		hooks = spec.Hooks.Poststart
	case hookPoststop:
		hooks, status = spec.Hooks.Poststop, specs.StateStopped
	}
	if len(hooks) == 0 {
		return nil
	}
	stdin, err := json.Marshal(s.ociState(status))
	if err != nil {
		return err
	}
	var failed error
	for _, hook := range hooks {
		if err := runHook(ctx, hook, stdin); err != nil {
			failed = errors.Join(failed, fmt.Errorf("hook %q of sandbox %q: %w", hook.Path, s.ID, err))
			if point != hookPoststop {
				break
			}
		}
	}
	return failed
}

// outputGrace is how long what a hook leaves behind may keep its output open.
const outputGrace = time.Second

func runHook(ctx context.Context, hook specs.Hook, stdin []byte) error {
	parent := ctx
	if hook.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*hook.Timeout)*time.Second)
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = append([]string{}, hook.Env...)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = outputGrace
	// A hook may leave a process behind that keeps its output open.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if parent.Err() != nil {
			return parent.Err()
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("no end after %d s", *hook.Timeout)
		}
		return fmt.Errorf("%w; it said: %q", err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// ociState is the sandbox's state as the runtime specification puts it.
func (s *Sandbox) ociState(status specs.ContainerState) *specs.State {
	state := &specs.State{
		Version: specs.Version, ID: s.ID, Status: status, Bundle: s.Bundle, Annotations: s.Annotations,
	}
	if status != specs.StateStopped {
		state.Pid = s.hostPID()
	}
	if s.MigratedTo != "" {
		state.Annotations = maps.Clone(state.Annotations)
		if state.Annotations == nil {
			state.Annotations = make(map[string]string)
		}
		state.Annotations[MigratedAnnotation] = s.MigratedTo
	}
	return state
}
