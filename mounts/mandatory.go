package mounts

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mandatoryMount is one that every container has.
type mandatoryMount struct {
	destination, filesystem string
	// types are those of a specification's own mount that means this one. Another
	// type takes its place, or is merged as far as possible where fixed is set.
	types []string
	fixed bool
	// has are options that are true of the sandbox's own anyway.
	has []string
}

// mandatoryMounts are in the order in which they are mounted, directly after the
// root.
var mandatoryMounts = [...]mandatoryMount{
	{destination: "/proc", filesystem: FilesystemProc, types: []string{FilesystemProc}},
	{destination: "/sys", filesystem: FilesystemSysfs, types: []string{FilesystemSysfs, "none"}},
	{destination: "/dev", filesystem: FilesystemDevtmpfs, types: []string{FilesystemDevtmpfs, FilesystemTmpfs}, fixed: true,
		has: []string{"mode=755", "mode=0755"}},
	{destination: "/dev/pts", filesystem: FilesystemDevpts, types: []string{FilesystemDevpts}, fixed: true},
}

// mergeMandatory takes a specification's mount into the mandatory one on the same
// destination. It returns false where the mount stands for itself.
func (c *compiler) mergeMandatory(destination, ociType string, m *specs.Mount) bool {
	i := slices.IndexFunc(mandatoryMounts[:], func(own mandatoryMount) bool {
		return own.destination == destination
	})
	if i < 0 {
		return false
	}
	own := &mandatoryMounts[i]
	means := slices.Contains(own.types, ociType)
	if !means && !own.fixed && !(ociType == typeBind && IsSystemMount(m.Source)) {
		return false
	}
	if !means {
		c.warn(WarnNotMerged, destination, "the sandbox's own %s is mounted instead of type %q from source %q", own.filesystem, ociType, m.Source)
	}
	mount := internal(own.filesystem, destination, OriginMandatory)
	options := slices.DeleteFunc(slices.Clone(m.Options), func(option string) bool { return slices.Contains(own.has, option) })
	c.applyOptions(&mount, options, WarnNotMerged)
	c.unmapped(destination, m)
	c.mandatory[i] = &mount
	return true
}

// mandatoryInOrder returns the mandatory mounts, merged where the specification
// has something to say, without those whose place it takes.
func (c *compiler) mandatoryInOrder() []Mount {
	var all []Mount
	for i, own := range mandatoryMounts {
		switch {
		case c.mandatory[i] != nil:
			all = append(all, *c.mandatory[i])
		case !c.taken[own.destination]:
			all = append(all, internal(own.filesystem, own.destination, OriginMandatory))
		}
	}
	return all
}
