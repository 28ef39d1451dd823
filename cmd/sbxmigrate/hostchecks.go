package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// hostChecks are the checks, those first on which others build.
func hostChecks() []check {
	const scanOnly = "migrations find changed memory by comparing all of it instead (about 95 ms more downtime for each GiB)"
	tracking := dirty.Detect()
	track := func(f dirty.Feature) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			if !f.OK {
				return "", errors.New(f.Reason)
			}
			return "works", nil
		}
	}
	return []check{
		{"root", true, probeRoot, "run as root"},
		{"kernel", true, probeKernel, "commands cannot wait for a sandbox"},
		{"processor", false, probeCPU, ""},
		{"user namespaces", true, probeNamespace(unix.CLONE_NEWUSER), "a sandbox process cannot be confined"},
		{"pid, mount, ipc namespaces", true, probeNamespace(unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS), "a sandbox process cannot be confined"},
		{"network namespaces", true, probeNamespace(unix.CLONE_NEWNET), "a sandbox process cannot be confined"},
		{"memfd sealing", true, probeSealing, "the memory of a sandbox cannot be shared safely"},
		{"ptrace", true, probePtrace, "the systrap platform cannot start"},
		{"platform systrap", true, probeSandbox, "no sandbox can run"},
		{"platform kvm", false, probeKVM, "--platform kvm cannot be used; systrap can"},
		{"packet sockets", false, probePacket, "sandboxes have a loopback only"},
		{"cgroups", false, probeCgroup, "memory and CPU limits are not applied, and a warning says so"},
		{"userfaultfd", false, track(tracking.Userfaultfd), scanOnly},
		{"userfaultfd WP_ASYNC", false, track(tracking.UserfaultfdWPAsync), scanOnly},
		{"PAGEMAP_SCAN", false, track(tracking.PagemapScan), scanOnly},
		{"userfaultfd minor faults", false, track(tracking.UserfaultfdMinor), scanOnly},
		{"/dev/userfaultfd", false, probeFaults, "after post-copy, a system call waits until most of a program's memory has come"},
	}
}

func probeRoot(context.Context) (string, error) {
	if uid := os.Geteuid(); uid != 0 {
		return "", fmt.Errorf("this is user %d", uid)
	}
	return "user 0", nil
}

// probeKernel asks for pidfd_open, the newest call that everything needs.
func probeKernel(context.Context) (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", err
	}
	release := unix.ByteSliceToString(name.Release[:])
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", fmt.Errorf("kernel %s has no pidfd_open (needs 5.3): %w", release, err)
	}
	unix.Close(fd)
	return "Linux " + release, nil
}

func probeCPU(context.Context) (string, error) {
	cpuid.Initialize()
	cpu := inside.ReadCPU()
	return fmt.Sprintf("%s, %d features, XSAVE %d bytes (mask %#x), cache line %d bytes: an image wants the same or more",
		cpu.Arch, len(cpu.Features), cpu.XSAVEBytes, cpu.XSAVEMask, cpu.CacheLineBytes), nil
}

// probeNamespace starts this program in new namespaces, as a sandbox process is
// started.
func probeNamespace(flags uintptr) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "version")
		cmd.Args[0] = "sbxmigrate"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  flags | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		if err := cmd.Run(); err != nil {
			return "", err
		}
		return "can be made", nil
	}
}

// probeFaults asks for what makes accesses wait for memory that has not come.
func probeFaults(context.Context) (string, error) {
	return "works", faults.Detect()
}

func probeSealing(context.Context) (string, error) {
	f, err := sandbox.NewMemory()
	if err != nil {
		return "", err
	}
	return "sealed against shrinking", f.Close()
}

func probePtrace(context.Context) (string, error) {
	scope, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	switch value := strings.TrimSpace(string(scope)); {
	case errors.Is(err, fs.ErrNotExist):
		return "not restricted", nil
	case err != nil:
		return "", err
	case value == "0" || value == "1":
		return "kernel.yama.ptrace_scope is " + value, nil
	default:
		return "", fmt.Errorf("kernel.yama.ptrace_scope is %s, want 0 or 1", value)
	}
}

// probeSandbox runs this program in a sandbox of its own.
func probeSandbox(ctx context.Context) (_ string, err error) {
	dir, err := os.MkdirTemp("", "sbxmigrate-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	bundle, err := ownBundle(dir, "version")
	if err != nil {
		return "", err
	}
	stdio, output, err := captured(filepath.Join(dir, "output"))
	if err != nil {
		return "", err
	}
	defer output.Close()
	s, _, err := sandbox.Root(filepath.Join(dir, "state")).Create(ctx, sandbox.CreateOptions{ID: "doctor", Bundle: bundle, Stdio: stdio})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Delete(context.WithoutCancel(ctx), true)) }()
	if err := s.Start(ctx); err != nil {
		return "", err
	}
	status, err := s.Wait(ctx)
	if err != nil {
		return "", err
	}
	said, err := os.ReadFile(output.Name())
	if err != nil || status != 0 || !bytes.HasPrefix(said, []byte("sbxmigrate version")) {
		return "", fmt.Errorf("a program in a sandbox ended with status %d and said %q", status, said)
	}
	return "a sandbox ran this program", nil
}

// ownBundle makes a bundle in dir whose one program is this one.
func ownBundle(dir string, args ...string) (*sandbox.Bundle, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	const program = "/sbxmigrate"
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(rootfs, program), nil, 0o755); err != nil { // to mount on
		return nil, err
	}
	return &sandbox.Bundle{Dir: dir, Spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{Args: append([]string{program}, args...), Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: program, Type: "bind", Source: self, Options: []string{"ro"}}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}},
	}}, nil
}

// captured returns streams for a process whose output goes to a file.
func captured(path string) (stdio []*os.File, output *os.File, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	if output, err = os.Create(path); err != nil {
		null.Close()
		return nil, nil, err
	}
	stdio = []*os.File{null}
	for range 2 {
		fd, err := unix.FcntlInt(output.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(append(stdio, output))
			return nil, nil, err
		}
		stdio = append(stdio, os.NewFile(uintptr(fd), path))
	}
	return stdio, output, nil
}

func probeKVM(context.Context) (string, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	return "/dev/kvm can be opened", f.Close()
}

func probePacket(context.Context) (string, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("AF_PACKET socket: %w", err)
	}
	return "can be opened", unix.Close(fd)
}

// probeCgroup makes a cgroup where memory is limited, and removes it.
func probeCgroup(context.Context) (string, error) {
	version, parent := "v1", "/sys/fs/cgroup/memory"
	if controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		version, parent = "v2", "/sys/fs/cgroup"
		if !strings.Contains(string(controllers), "memory") {
			return "", errors.New("cgroup v2 here has no memory controller")
		}
	}
	dir, err := os.MkdirTemp(parent, "sbxmigrate-doctor-")
	if err != nil {
		return "", fmt.Errorf("cgroup %s: %w", version, err)
	}
	return version + ", writable", os.Remove(dir)
}
