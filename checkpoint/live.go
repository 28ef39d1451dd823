package checkpoint

import (
	"context"
	"fmt"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// Live is a running sandbox whose memory and kernel are about to go elsewhere:
// the pager's side of package inside for a migration. Its methods are called one
// at a time, but for Frames.
type Live struct {
	sb     *sandbox.Sandbox
	client *control.Client
	frames *control.Client // of Frames alone
	memory *os.File
	// tracking and stopping are our ends of lifelines: closing one ends the
	// tracking and throttling, or the stop unless it was disarmed.
	tracking, stopping *os.File
}

// OpenLive connects to a sandbox. The caller closes the Live; the sandbox goes
// on then, unless it was disarmed.
func OpenLive(ctx context.Context, sb *sandbox.Sandbox) (_ *Live, err error) {
	if err := sb.NeedWhole("move"); err != nil {
		return nil, err
	}
	l := &Live{sb: sb}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.client, err = sb.Dial(ctx); err != nil {
		return nil, err
	}
	l.frames, err = sb.Dial(ctx)
	return l, err
}

// Close lets go of the sandbox. It may be called twice.
func (l *Live) Close() {
	for _, f := range []*os.File{l.tracking, l.stopping, l.memory} {
		if f != nil {
			f.Close()
		}
	}
	for _, c := range []*control.Client{l.client, l.frames} {
		if c != nil {
			c.Close()
		}
	}
	*l = Live{sb: l.sb}
}

// call makes a call that does not stop the sandbox.
func (l *Live) call(ctx context.Context, method string, arg, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.client.Call(ctx, method, arg, result)
}

// Survey asks what a save would find.
func (l *Live) Survey(ctx context.Context) (*inside.Survey, error) { return survey(ctx, l.client) }

// Memory returns the memory file, owned by l, after accounting for what is in
// it, so that a stop has not to.
func (l *Live) Memory(ctx context.Context) (*os.File, error) {
	var p inside.Prepared
	if err := l.call(ctx, inside.MethodPrepare, &control.None{}, &p); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	if len(p.Files) != 1 {
		closeFiles(p.Files)
		return nil, fmt.Errorf("%w: prepare gave %d files, want the memory file", ErrSandbox, len(p.Files))
	}
	if l.memory != nil {
		p.Files[0].Close()
		return l.memory, nil
	}
	if _, err := checkMemory(p.Files[0]); err != nil {
		p.Files[0].Close()
		return nil, err
	}
	l.memory = p.Files[0]
	return l.memory, nil
}

// Arm begins to track dirty pages. It returns why that is not possible here, or
// "".
func (l *Live) Arm(ctx context.Context) (unsupported string, err error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	var result inside.ArmResult
	if err := l.call(ctx, inside.MethodArm, &inside.ArmArgs{FilePayload: urpc.FilePayload{Files: []*os.File{theirs}}}, &result); err != nil {
		ours.Close()
		return "", err
	}
	l.tracking = ours
	return result.Unsupported, nil
}

// Throttle takes a share of its time from the sandbox, until it stops or l is
// closed. It is for after Arm. It returns why that is not possible here, or "".
func (l *Live) Throttle(ctx context.Context, percent int) (unsupported string, err error) {
	var result inside.ThrottleResult
	err = l.call(ctx, inside.MethodThrottle, &inside.ThrottleArgs{Percent: percent}, &result)
	return result.Unsupported, err
}

// Collect returns what became dirty since Arm or the last Collect.
func (l *Live) Collect(ctx context.Context) (*pages.Set, error) {
	return l.pageSet(ctx, inside.MethodCollect)
}

func (l *Live) pageSet(ctx context.Context, method string) (*pages.Set, error) {
	return pageSet(ctx, l.client, method)
}

// Populate commits the pages that processes have mapped and not touched yet. A
// stop would otherwise look at each of them.
func (l *Live) Populate(ctx context.Context) error { return populateMapped(ctx, l.client, l.memory) }

// Frames returns the frames that reached the stopped sandbox's gates since the
// last call.
func (l *Live) Frames(ctx context.Context) ([]network.Frame, error) {
	var out inside.FrameList
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := l.frames.Call(ctx, inside.MethodFrames, &control.None{}, &out)
	return out.Frames, err
}

// Disarm is Disarm for the sandbox that Stop stopped, over the connection that is open.
func (l *Live) Disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	return l.client.Call(ctx, inside.MethodDisarm, &control.None{}, &control.None{})
}

// releaseTimeout bounds Release and Disarm of a sandbox: their callers try again.
const releaseTimeout = 10 * time.Second

// Disarm keeps a stopped sandbox stopped, whatever becomes of us.
func Disarm(ctx context.Context, sb *sandbox.Sandbox) error {
	return callOnce(ctx, sb, inside.MethodDisarm, &control.None{})
}

// Release lets a stopped sandbox go on. It is no error if it was not stopped.
func Release(ctx context.Context, sb *sandbox.Sandbox, announce bool) error {
	return callOnce(ctx, sb, inside.MethodRelease, &inside.ReleaseArgs{Announce: announce})
}

// Inject gives a sandbox's gates frames of the host that it comes from.
func Inject(ctx context.Context, sb *sandbox.Sandbox, frames []network.Frame) error {
	return callOnce(ctx, sb, inside.MethodInject, &inside.FrameList{Frames: frames})
}

// TellPeers has a sandbox that is not started yet tell the peers of some connections of the saved kernel, when it starts,
// that these have ended with the move: those of its plan that deserve it.
func (p *Plan) TellPeers(ctx context.Context, sb *sandbox.Sandbox, stopped []network.Connection) error {
	fates := resets(network.Survival(stopped, p.network))
	if len(fates) == 0 {
		return nil
	}
	return callOnce(ctx, sb, inside.MethodResets, &inside.ResetArgs{Fates: fates})
}

func callOnce(ctx context.Context, sb *sandbox.Sandbox, method string, arg any) error {
	return callFor(ctx, sb, method, arg, &control.None{})
}

// callFor makes one call on a connection of its own.
func callFor(ctx context.Context, sb *sandbox.Sandbox, method string, arg, result any) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	client, err := sb.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, method, arg, result)
}
