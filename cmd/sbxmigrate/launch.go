package main

import (
	"cmp"
	"context"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// streamOptions say how a new process is connected to the outside.
type streamOptions struct {
	detach        bool
	consoleSocket string
	preserveFDs   int
	pidFile       string
}

func (o *streamOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.consoleSocket, "console-socket", "", "send the terminal's master end to this Unix `socket`")
	f.IntVar(&o.preserveFDs, "preserve-fds", 0, "pass `N` descriptors, from 3 on, to the process")
	f.StringVar(&o.pidFile, "pid-file", "", "write the PID of the process that stands for it on this host to `file`")
}

func (o *streamOptions) addDetachFlag(f *pflag.FlagSet) {
	f.BoolVarP(&o.detach, "detach", "d", false, "do not wait for its end")
}

// streams are one process's connections to the outside: our own standard
// streams, or a terminal.
type streams struct {
	stdio     []*os.File
	preserved []*os.File

	console *console // nil without a terminal
	standIn *standIn // leads the terminal's session, or is the process in a pid file; or nil
	relay   *relay   // once attached to our own terminal
}

// openStreams opens what a process of the sandbox id is to have. A terminal goes
// to the console socket, or else, in the foreground, is relayed to our own. The
// caller calls close.
func (c *cli) openStreams(id string, terminal bool, size *specs.Box, o streamOptions) (_ *streams, err error) {
	switch {
	case terminal && o.consoleSocket == "" && o.detach:
		return nil, usageError("a terminal cannot be left in the background without --console-socket to send it to")
	case !terminal && o.consoleSocket != "":
		return nil, usageError("--console-socket is for a process with a terminal, and this one asks for none")
	}
	s := &streams{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.preserved, err = copyPreserved(o.preserveFDs); err != nil {
		return nil, err
	}
	if !terminal {
		s.stdio, err = copyStdio()
		return s, err
	}
	relayed := o.consoleSocket == ""
	if s.console, err = openConsole(size); err != nil {
		return nil, err
	}
	if own, sizeErr := terminalSize(os.Stdin); relayed && sizeErr == nil {
		if err := s.console.resize(own.Row, own.Col); err != nil {
			return nil, err
		}
	}
	if s.standIn, err = c.startStandIn(id, s.console.slave); err != nil {
		return nil, err
	}
	// From here on the process owns the slave end.
	s.stdio, s.console.slave = []*os.File{s.console.slave}, nil
	if !relayed {
		err = s.console.send(o.consoleSocket)
	}
	return s, err
}

// givenAway says that somebody else owns the files now.
func (s *streams) givenAway() { s.stdio, s.preserved = nil, nil }

// closeGiven closes our copies of files that a process inside has now.
func (s *streams) closeGiven() {
	closeAll(s.stdio)
	closeAll(s.preserved)
	s.givenAway()
}

// attach connects a process that has just been made to its stand-in, and to our
// own terminal where its terminal did not go to a console socket. pid is its
// PID inside.
func (s *streams) attach(pid int32, o streamOptions) (err error) {
	if s.standIn == nil {
		return nil
	}
	if err := s.standIn.assignTo(pid, o.detach); err != nil {
		return err
	}
	if s.console != nil && o.consoleSocket == "" {
		s.relay, err = startRelay(s.console, os.Stdin, os.Stdout)
	}
	return err
}

// finish carries the last output of a process that has ended.
func (s *streams) finish() {
	if s.relay != nil {
		s.relay.finish()
		s.relay = nil
	}
	if s.standIn != nil {
		s.standIn.collect()
		s.standIn = nil
	}
}

// close puts our terminal back and closes what is still ours. What was attached
// goes on by itself.
func (s *streams) close() {
	if s.relay != nil {
		s.relay.finish()
	}
	closeAll(s.stdio)
	closeAll(s.preserved)
	if s.console != nil {
		s.console.close()
	}
	if s.standIn != nil {
		s.standIn.letGo()
	}
}

// launchOptions say what sandbox to make of a bundle.
type launchOptions struct {
	streamOptions
	namespaceOption
	bundle   string
	platform string
	tracking string
	overlay  string
	lenient  bool
	sandbox  string
}

func (o *launchOptions) addFlags(f *pflag.FlagSet) {
	o.streamOptions.addFlags(f)
	o.namespaceOption.addFlags(f)
	f.StringVarP(&o.bundle, "bundle", "b", ".", "`directory` with config.json and the root filesystem")
	f.StringVar(&o.platform, "platform", "", "`how` guest code is run: systrap (default) or kvm")
	f.StringVar(&o.tracking, "tracking", boot.TrackingOn,
		"`how` written memory is tracked: on (when a migration asks), off, or always; the others than on show what it costs (docs/benchmarks.md)")
	f.MarkHidden("tracking")
	f.StringVar(&o.overlay, "overlay", overlayDefault, "`which` writable mounts get a writable layer in the sandbox's memory, which travels with it: none, root or all")
	f.BoolVar(&o.lenient, "lenient", false, "leave mounts of unknown type out, with a warning")
	f.StringVar(&o.sandbox, "sandbox", "", "make a further container in this running sandbox, its `ID`, whatever the bundle's annotations say")
	addIgnoredFlags(f)
}

// namespaceOption names the network namespace instead of the bundle.
type namespaceOption struct{ networkNamespace string }

func (o *namespaceOption) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.networkNamespace, "network-namespace", "", "`path` of the network namespace to take over, whatever the bundle names")
}

// loadBundle reads a bundle and gives it the network namespace.
func (o *namespaceOption) loadBundle(dir string) (*sandbox.Bundle, error) {
	bundle, err := sandbox.LoadBundle(dir)
	if err == nil && o.networkNamespace != "" {
		bundle.SetNetworkNamespace(o.networkNamespace)
	}
	return bundle, err
}

// launch makes a sandbox that is ready to be started, and tells what its bundle
// asked for in vain. On an error nothing is left; otherwise the caller closes
// the streams.
func (c *cli) launch(ctx context.Context, id string, bundle *sandbox.Bundle, o launchOptions) (_ *sandbox.Sandbox, _ *streams, err error) {
	overlay, err := parseOverlay(o.overlay)
	if err != nil {
		return nil, nil, err
	}
	if err := boot.CheckTracking(o.tracking); err != nil {
		return nil, nil, usageError("--tracking: %v", err)
	}
	process := bundle.Spec.Process
	st, err := c.openStreams(id, process.Terminal, process.ConsoleSize, o.streamOptions)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	in := cmp.Or(o.sandbox, sandbox.SandboxOf(bundle.Spec))
	standIn := 0
	if in != "" {
		// The sandbox process stands for the first container only.
		if standIn, err = c.needStandIn(st, id); err != nil {
			return nil, nil, err
		}
	}
	stdio, preserved := st.stdio, st.preserved
	st.givenAway()
	s, warnings, err := c.sandboxes().Create(ctx, sandbox.CreateOptions{
		ID: id, Bundle: bundle, Sandbox: in, StandIn: standIn, Stdio: stdio, Preserved: preserved, PIDFile: o.pidFile,
		Platform: o.platform, Tracking: o.tracking, Overlay: overlay, Lenient: o.lenient, Debug: c.debug,
	})
	if err != nil {
		return nil, nil, interruption(ctx, err)
	}
	c.warn(warnings...)
	if err := st.attach(containerPID, o.streamOptions); err != nil {
		s.Delete(context.WithoutCancel(ctx), true)
		return nil, nil, err
	}
	return s, st, nil
}

// needStandIn makes sure that streams have a stand-in, and returns its PID.
func (c *cli) needStandIn(st *streams, id string) (pid int, err error) {
	if st.standIn == nil {
		if st.standIn, err = c.startStandIn(id, nil); err != nil {
			return 0, err
		}
	}
	return st.standIn.pid(), nil
}

// overlayDefault keeps what is written to a root filesystem with the sandbox.
const overlayDefault = string(mounts.OverlayRoot)

// parseOverlay understands --overlay.
func parseOverlay(text string) (mounts.OverlayMode, error) {
	switch mode := mounts.OverlayMode(text); mode {
	case "none":
		return mounts.OverlayNone, nil
	case mounts.OverlayNone, mounts.OverlayRoot, mounts.OverlayAll:
		return mode, nil
	default:
		return "", usageError("--overlay is %q, want none, root or all", text)
	}
}
