package mounts

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bind compiles what a gofer serves, or what is shared in memory instead.
func (c *compiler) bind(destination string, m *specs.Mount) {
	mount := internal(FilesystemGofer, destination, OriginSpec)
	options := m.Options
	if hint := c.hints[m.Source]; hint != nil {
		c.hintUsed[m.Source] = true
		options = slices.Concat(hint.Options, options)
		mount.Shared = hint
		if hint.inMemory() {
			mount.Filesystem = FilesystemTmpfs
			mount.Device = deviceNone
		}
	}
	mount.Recursive = c.applyOptions(&mount, options, WarnOptionIgnored).recursive
	c.unmapped(destination, m)
	if mount.Filesystem == FilesystemGofer {
		c.source(&mount, m.Source)
	} else {
		mount.Recursive = false
	}
	c.own = append(c.own, mount)
}

// source fills in what backs a bind mount on this host.
func (c *compiler) source(mount *Mount, source string) {
	const remedy = "name the source's absolute path, or one relative to the bundle"
	mount.Source = c.absolute(source)
	if source == "" || !filepath.IsAbs(mount.Source) {
		mount.Source = ""
		c.refuse(CodeSource, mount.Destination, fmt.Sprintf("source %q", source), "a path", remedy)
		return
	}
	mount.SourceExternal = c.opts.Bundle == "" || !below(mount.Source, filepath.Clean(c.opts.Bundle))
	mode, err := statSource(mount.Source)
	if err != nil {
		err.Mount = mount.Destination
		c.errs = append(c.errs, err)
		return
	}
	kind := mode & unix.S_IFMT
	mount.SourceIsFile = kind != unix.S_IFDIR
	// A layer over a socket or FIFO would cut it off from its other end.
	layered := kind == unix.S_IFDIR || kind == unix.S_IFREG
	mount.Overlay = layered && !mount.Flags.ReadOnly && c.opts.Overlay == OverlayAll
}

// cgroups compiles a cgroup mount: a tmpfs with a mount for each controller.
func (c *compiler) cgroups(destination string, m *specs.Mount) {
	asked := internal(FilesystemCgroup, destination, OriginSpec)
	c.applyOptions(&asked, m.Options, WarnOptionIgnored)
	c.unmapped(destination, m)
	parent := internal(FilesystemTmpfs, destination, OriginSpec)
	parent.Flags, parent.Data = asked.Flags, "mode=755"
	c.own = append(c.own, parent)
	for _, controller := range cgroupControllers {
		mount := internal(FilesystemCgroup, path.Join(destination, controller), OriginSpec)
		if c.taken[mount.Destination] {
			c.refuse(CodeDuplicate, mount.Destination, "a second mount", "the one that the cgroup mount above brings", "leave it out")
			continue
		}
		c.taken[mount.Destination] = true
		mount.Flags, mount.Data = parent.Flags, controller
		c.own = append(c.own, mount)
	}
}
