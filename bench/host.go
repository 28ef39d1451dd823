package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// prefix is appended to the addresses of all machines of a lab.
const prefix = "/24"

// A host stands for one machine: a state directory of a runtime whose commands run in a namespace.
type host struct {
	runtime *runtime
	dir     string
	ns      *os.File // nil: this process's own
	address string   // in ns
}

// newHost makes a host whose commands run where this process does.
func newHost(r *runtime, dir string) (*host, error) {
	return &host{runtime: r, dir: dir}, os.MkdirAll(dir, 0o700)
}

// path names a file of the host.
func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *host) command(args ...string) *exec.Cmd { return h.runtime.command(h.path("state"), args...) }

// run runs a command to its end and returns what it printed. A sandbox that it leaves behind prints into a file of the host.
func (h *host) run(args ...string) (stdout []byte, err error) {
	printed, err := os.CreateTemp(h.dir, "stdout-") // a pipe would wait for the sandbox, which inherits it
	if err != nil {
		return nil, err
	}
	defer printed.Close()
	failed, err := os.CreateTemp(h.dir, "stderr-")
	if err != nil {
		return nil, err
	}
	defer failed.Close()
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = printed, failed
	if h.ns == nil {
		err = cmd.Start()
	} else {
		err = netlab.Start(h.ns, cmd)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		said, _ := os.ReadFile(failed.Name())
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, bytes.TrimSpace(said))
	}
	return os.ReadFile(printed.Name())
}

// delete ends a sandbox, whatever it does.
func (h *host) delete(id string) { h.run("delete", "--force", id) }

// bundle writes a bundle of the host.
func (h *host) bundle(name string, b guest.Bundle) (dir string, err error) {
	dir = h.path("bundles", name)
	return dir, b.Write(dir)
}

// inNamespace gives a bundle a network namespace.
func inNamespace(b guest.Bundle, ns *os.File) guest.Bundle {
	b.Edit = func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = netlab.Path(ns)
			}
		}
	}
	return b
}

// redisServer is the command line of a redis that others reach.
var redisServer = []string{"/usr/bin/redis-server", "--port", redisPort, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "",
	"--appendonly", "no", "--dir", "/tmp", "--daemonize", "no", "--loglevel", "warning"}

const redisPort = "6379"

// networked returns a runtime with the network of the namespace that a bundle names, instead of the loopback device alone. Connections may
// stay in an image.
func (r *runtime) networked() *runtime {
	with := *r
	with.global = nil
	for _, flag := range r.global {
		if flag == "--network=none" {
			flag = "--network=sandbox"
			with.global = append(with.global, "--allow-connected-on-save")
		}
		with.global = append(with.global, flag)
	}
	return &with
}
