package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// demoBinary is the name of the one file in the demo's root filesystem: this
// program.
const demoBinary = "sbxmigrate"

// demoSandboxID names the sandbox, on either host: one that migrates keeps its
// name.
const demoSandboxID = "store"

// demoHost is one of the demo's two hosts: what is different between two
// machines is different between them.
type demoHost struct {
	name      string // for people
	namespace *os.File
	state     sandbox.Root
	data      dataOptions
	bundle    *sandbox.Bundle
}

// newDemoHost makes a host in a new directory dir. The caller closes its
// namespace.
func newDemoHost(lab *demoLab, dir, name string, server []string, up bool) (_ *demoHost, err error) {
	h := &demoHost{
		name: "host " + name, state: sandbox.Root(filepath.Join(dir, "state")), data: dataOptions{filepath.Join(dir, "data")},
	}
	if h.namespace, err = lab.addHost(up); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.namespace.Close()
		}
	}()
	bundle := filepath.Join(dir, "bundle-of-"+name)
	if err := writeDemoBundle(bundle, namespacePath(h.namespace), server); err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	h.bundle, err = sandbox.LoadBundle(bundle)
	return h, err
}

// writeDemoBundle makes a bundle of nothing but this program.
func writeDemoBundle(dir, namespace string, server []string) error {
	spec := newSpec(specOptions{netns: namespace}, append([]string{"/" + demoBinary, demoServerCommand}, server...))
	spec.Mounts, spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil, nil // it needs none
	rootfs := filepath.Join(dir, spec.Root.Path)
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	if err := linkSelf(filepath.Join(rootfs, demoBinary)); err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

// linkSelf makes path this program: a hard link where the file system is the
// same, or else a copy with the same time stamp, so that two of them pass for
// the same file.
func linkSelf(path string) error {
	const self = "/proc/self/exe"
	if unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW) == nil {
		return nil
	}
	from, err := os.Open(self)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// serverArguments are those of demoServer.
func serverArguments(keys int) []string {
	return []string{fmt.Sprintf("%s:%d", demoServerAddress, demoPort), strconv.Itoa(keys)}
}

// runningDemo is the demo's sandbox on one of the hosts.
type runningDemo struct {
	*sandbox.Sandbox
	output *serverOutput
}

// serverOutput is what the server in a sandbox prints.
type serverOutput struct {
	ready chan struct{} // closed when it says that it listens
	ended chan struct{} // closed when nobody can print any more

	mu   sync.Mutex
	text []byte
}

// openServerOutput returns the output of a server and the standard streams to
// give it, which the caller passes on or closes.
func openServerOutput() (_ *serverOutput, stdio []*os.File, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	files = append(files, null)
	from, to, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, to)
	again, err := unix.FcntlInt(to.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		from.Close()
		return nil, nil, err
	}
	files = append(files, os.NewFile(uintptr(again), "server-stderr"))
	o := &serverOutput{ready: make(chan struct{}), ended: make(chan struct{})}
	go o.collect(from)
	return o, files, nil
}

// maxServerOutputBytes bounds what is kept of a server's output.
const maxServerOutputBytes = 4 << 10

func (o *serverOutput) collect(from *os.File) {
	defer close(o.ended)
	defer from.Close()
	announced := false
	buffer := make([]byte, 512)
	for {
		n, err := from.Read(buffer)
		o.mu.Lock()
		o.text = append(o.text, buffer[:min(n, maxServerOutputBytes-len(o.text))]...)
		ready := !announced && len(o.text) >= len(demoServerReady) && string(o.text[:len(demoServerReady)]) == demoServerReady
		o.mu.Unlock()
		if ready {
			announced = true
			close(o.ready)
		}
		if err != nil {
			return
		}
	}
}

// awaitReady returns when the server listens.
func (o *serverOutput) awaitReady(ctx context.Context) error {
	select {
	case <-o.ready:
		return nil
	case <-o.ended:
		return o.endError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endError says that the server is gone, and what it said.
func (o *serverOutput) endError() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Errorf("the server has ended, having said %q", o.text)
}
