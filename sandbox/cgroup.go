package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cgroup"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// memoryLimit returns what the guest is to see as total memory: the
// specification's limit, or else the host's memory.
func memoryLimit(spec *specs.Spec) uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0 // the kernel then picks for itself
	}
	total := info.Totalram * uint64(info.Unit)
	if spec.Linux != nil && spec.Linux.Resources != nil && spec.Linux.Resources.Memory != nil {
		if limit := spec.Linux.Resources.Memory.Limit; limit != nil && *limit > 0 {
			return min(uint64(*limit), total)
		}
	}
	return total
}

// startInCgroup starts the sandbox process in the cgroup that the spec names,
// with the spec's limits on it. Where the host does not let us, the sandbox
// runs without, and a warning says so.
func (c *creation) startInCgroup(cfg *boot.Config) (*spare.Process, error) {
	linux := c.opts.Bundle.Spec.Linux
	if linux == nil || linux.CgroupsPath == "" {
		return startProcess(cfg, c.log)
	}
	process, err := c.startIn(linux, cfg)
	if err != nil {
		c.warnings = append(c.warnings, fmt.Sprintf("linux.cgroupsPath %q and linux.resources are not applied: %v", linux.CgroupsPath, err))
		return startProcess(cfg, c.log)
	}
	if cfg.Restore != nil {
		cfg.Restore.Charge = true
	}
	return process, nil
}

// startIn makes the cgroup and starts a process in it.
func (c *creation) startIn(linux *specs.Linux, cfg *boot.Config) (*spare.Process, error) {
	group, err := openCgroup(linux.CgroupsPath, c.opts.ID)
	if err != nil {
		return nil, err
	}
	if err := group.Install(linux.Resources); err != nil {
		return nil, err
	}
	// Not the prepared process: what it has by now is charged to our own cgroup. Nor do we go there ourselves
	// for a moment, as would an agent with all that it does for other sandboxes.
	spare.Discard()
	process, err := spare.StartPlaced(cfg.ID, cfg.Platform, c.log, func(pid int) error { return placeInCgroup(group, pid) })
	if err != nil {
		group.Uninstall()
		return nil, err
	}
	c.undoer(func() { group.Uninstall() })
	c.record.CgroupPath, c.record.Cgroup = linux.CgroupsPath, &cgroup.CgroupJSON{Cgroup: group}
	return process, nil
}

// controllers are those of version 1 that a sandbox is placed under, where the host has them.
var controllers = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids", "rdma", "systemd",
}

// placeInCgroup moves a process into a cgroup.
func placeInCgroup(group cgroup.Cgroup, pid int) error {
	if cgroup.IsOnlyV2() {
		return writeProcs(group.MakePath(""), pid)
	}
	for _, name := range controllers {
		if err := writeProcs(group.MakePath(name), pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeProcs(dir string, pid int) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprint(f, pid)
	return err
}

// openCgroup accepts a plain path and systemd's slice:prefix:name.
func openCgroup(path, id string) (cgroup.Cgroup, error) {
	if cgroup.LikelySystemdPath(path) {
		plain, err := cgroup.TransformSystemdPath(path, id, false)
		if err != nil {
			return nil, err
		}
		path = plain
	}
	return cgroup.NewFromPath(path, false)
}

// Update changes the limits of a sandbox's cgroup.
func (s *Sandbox) Update(resources *specs.LinuxResources) error {
	if s.CgroupPath == "" {
		return fmt.Errorf("sandbox %q: %w: it has no cgroup to update; set linux.cgroupsPath in its bundle", s.ID, ErrState)
	}
	group, err := openCgroup(s.CgroupPath, s.ID)
	if err != nil {
		return fmt.Errorf("open cgroup of sandbox %q: %w", s.ID, err)
	}
	if err := group.Update(resources); err != nil {
		return fmt.Errorf("update cgroup of sandbox %q: %w", s.ID, err)
	}
	return nil
}

// JoinCgroup moves this process, which stands for a further container on the host,
// into the container's cgroup, if it has one.
func (s *Sandbox) JoinCgroup() error {
	if !s.Further() || s.Cgroup == nil {
		return nil
	}
	if _, err := s.Cgroup.Cgroup.Join(); err != nil {
		return fmt.Errorf("join cgroup of container %q: %w", s.ID, err)
	}
	return nil
}

// removeCgroup removes what Create made of the cgroup, and nothing of its caller's.
func (s *Sandbox) removeCgroup() error {
	if s.Cgroup == nil {
		return nil
	}
	return s.Cgroup.Cgroup.Uninstall()
}
