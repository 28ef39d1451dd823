package mounts

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// maxMounts bounds the mounts that one specification may have: a gofer serves
	// no more.
	maxMounts = 1000
	// typeBind is the OCI type of what a gofer serves.
	typeBind = "bind"
)

// filesystems maps OCI mount types to what a sandbox mounts.
var filesystems = map[string]string{
	typeBind:           FilesystemGofer,
	FilesystemProc:     FilesystemProc,
	FilesystemSysfs:    FilesystemSysfs,
	"none":             FilesystemSysfs,
	FilesystemDevtmpfs: FilesystemDevtmpfs,
	FilesystemDevpts:   FilesystemDevpts,
	FilesystemTmpfs:    FilesystemTmpfs,
	FilesystemMqueue:   FilesystemMqueue,
	FilesystemCgroup:   FilesystemCgroup,
}

// cgroupControllers are those of the sandbox's kernel, each a mount of its own.
var cgroupControllers = []string{"cpu", "cpuacct", "cpuset", "devices", "job", "memory", "pids"}

// compiler collects the mounts of one specification, and what is wrong.
type compiler struct {
	spec *specs.Spec
	opts Options

	hints     map[string]*SharedHint // by source
	hintUsed  map[string]bool        // by source
	taken     map[string]bool        // destinations
	mandatory [len(mandatoryMounts)]*Mount
	own       []Mount // the specification's, in its order
	warnings  []Warning
	errs      Errors
}

// Compile returns the mounts that a sandbox has for a specification. An error is
// of type Errors and has every reason at once; the list is then what could be
// compiled, sources that do not exist included, so that a plan can go on to
// show everything else.
func Compile(spec *specs.Spec, opts Options) (*List, error) {
	c := &compiler{spec: spec, opts: opts, taken: map[string]bool{"/": true}}
	if spec == nil {
		c.spec = &specs.Spec{}
	}
	c.readHints()
	root, rootFound := c.root()
	c.specMounts()
	list := &List{Tmp: opts.TmpDecision}
	list.Mounts = append(append([]Mount{root}, c.mandatoryInOrder()...), c.own...)
	if list.Tmp == TmpUndecided {
		list.Tmp = c.tmp(root, rootFound)
	}
	if list.Tmp == TmpMounted && !c.taken["/tmp"] {
		list.Mounts = append(list.Mounts, internal(FilesystemTmpfs, "/tmp", OriginTmp))
	}
	list.Mounts = parentsFirst(list.Mounts)
	c.unusedHints()
	list.Warnings = c.warnings
	if len(c.errs) > 0 {
		return list, c.errs
	}
	return list, nil
}

func (c *compiler) refuse(code Code, mount, found, expected, remedy string) {
	c.errs = append(c.errs, &Error{Code: code, Mount: mount, Found: found, Expected: expected, Remedy: remedy})
}

func (c *compiler) warn(code Code, mount, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{code, mount, fmt.Sprintf(format, args...)})
}

// internal returns a mount that has nothing outside the sandbox.
func internal(filesystem, destination string, origin Origin) Mount {
	return Mount{Destination: destination, Device: DeviceName(filesystem, destination), Filesystem: filesystem, Origin: origin}
}

// root compiles the root mount and says whether it is there.
func (c *compiler) root() (Mount, bool) {
	root := internal(FilesystemGofer, "/", OriginRoot)
	const remedy = "name the root filesystem's directory in root.path"
	if c.spec.Root == nil || c.spec.Root.Path == "" {
		c.refuse(CodeRoot, "/", "no root.path", "a directory", remedy)
		return root, false
	}
	root.Flags.ReadOnly = c.spec.Root.Readonly
	root.Overlay = !root.Flags.ReadOnly && c.opts.Overlay != OverlayNone
	root.Source = c.absolute(c.spec.Root.Path)
	if !filepath.IsAbs(root.Source) {
		root.Source = ""
		c.refuse(CodeRoot, "/", fmt.Sprintf("relative root.path %q without a bundle", c.spec.Root.Path), "an absolute path", remedy)
		return root, false
	}
	mode, err := statSource(root.Source)
	if err != nil {
		err.Mount = "/"
		c.errs = append(c.errs, err)
		return root, false
	}
	isDir := mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir {
		c.refuse(CodeRoot, "/", fmt.Sprintf("%q, which is a file", root.Source), "a directory", remedy)
	}
	return root, isDir
}

// absolute returns a host path that the specification names.
func (c *compiler) absolute(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(c.opts.Bundle, name)
}

func (c *compiler) specMounts() {
	if n := len(c.spec.Mounts); n > maxMounts {
		c.refuse(CodeTooMany, "", fmt.Sprintf("%d mounts", n), fmt.Sprintf("at most %d", maxMounts), "mount a common parent instead")
		return
	}
	for i := range c.spec.Mounts {
		c.specMount(&c.spec.Mounts[i])
	}
}

func (c *compiler) specMount(m *specs.Mount) {
	destination, ok := c.destination(m.Destination)
	if !ok {
		return
	}
	// Before the type: options say whether an untyped mount is a bind.
	asked, _ := parseOptions("", m.Options)
	ociType, ok := c.ociType(destination, m.Type, asked.bind)
	if !ok {
		return
	}
	if c.taken[destination] {
		c.refuse(CodeDuplicate, destination, "a second mount", "one mount a destination", "leave one of them out")
		return
	}
	c.taken[destination] = true
	if c.mergeMandatory(destination, ociType, m) {
		return
	}
	filesystem := filesystems[ociType]
	switch filesystem {
	case FilesystemGofer:
		c.bind(destination, m)
	case FilesystemCgroup:
		c.cgroups(destination, m)
	default:
		mount := internal(filesystem, destination, OriginSpec)
		c.applyOptions(&mount, m.Options, WarnOptionIgnored)
		c.unmapped(destination, m)
		c.own = append(c.own, mount)
	}
}

// destination returns a mount's clean destination, or refuses it.
func (c *compiler) destination(name string) (string, bool) {
	switch {
	case !path.IsAbs(name):
		c.refuse(CodeDestination, name, "a destination that is not absolute", "an absolute path", "begin the destination with /")
	case len(name) >= unix.PathMax || strings.ContainsRune(name, 0):
		c.refuse(CodeDestination, strings.ToValidUTF8(name[:min(len(name), 64)], "?"), "a destination that no kernel takes",
			fmt.Sprintf("a path of less than %d bytes", unix.PathMax), "correct the destination")
	default:
		return path.Clean(name), true
	}
	return "", false
}

// ociType returns the type that a mount really has, or leaves the mount out.
func (c *compiler) ociType(destination, ociType string, bind bool) (string, bool) {
	switch {
	case bind && (ociType == "" || ociType == "none"):
		return typeBind, true
	case bind && ociType != typeBind:
		c.refuse(CodeTypeConflict, destination, fmt.Sprintf("type %q with option bind", ociType), "type bind",
			"correct the type or leave the option out")
		return "", false
	case filesystems[ociType] != "":
		return ociType, true
	case c.opts.Lenient:
		c.warn(WarnTypeDropped, destination, "left out, since a sandbox has no filesystem of type %q", ociType)
		return "", false
	default:
		c.refuse(CodeUnknownType, destination, fmt.Sprintf("type %q", ociType),
			"bind, tmpfs, proc, sysfs, devtmpfs, devpts, mqueue, cgroup or none", "change the type, or leave out unknown types with the lenient policy")
		return "", false
	}
}

// applyOptions puts options into a mount and reports, with a code, what has no
// effect. It returns what they say.
func (c *compiler) applyOptions(mount *Mount, options []string, code Code) parsedOptions {
	p, errs := parseOptions(mount.Filesystem, options)
	for _, err := range errs {
		err.Mount = mount.Destination
		c.errs = append(c.errs, err)
	}
	for _, option := range p.unknown {
		c.warn(code, mount.Destination, "option %q has no effect on %s in a sandbox", option, mount.Filesystem)
	}
	mount.Flags, mount.Data = p.flags, strings.Join(p.data, ",")
	return p
}

// unmapped reports ID mappings of a single mount, which a sandbox does not have.
func (c *compiler) unmapped(destination string, m *specs.Mount) {
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		c.warn(WarnOptionIgnored, destination, "ID mappings of a single mount have no effect; those of the container do")
	}
}

// tmp decides about the internal /tmp.
func (c *compiler) tmp(root Mount, rootFound bool) TmpDecision {
	for destination := range c.taken {
		if below(destination, "/tmp") {
			return TmpNotMounted
		}
	}
	if !rootFound {
		return TmpNotMounted
	}
	return decideTmp(root.Source)
}

// parentsFirst returns mounts in their order, except that each stands after
// every mount that it lies in.
func parentsFirst(list []Mount) []Mount {
	at := make(map[string]int, len(list))
	for i := range list {
		at[list[i].Destination] = i
	}
	sorted := make([]Mount, 0, len(list))
	placed := make([]bool, len(list))
	var place func(i int)
	place = func(i int) {
		if placed[i] {
			return
		}
		placed[i] = true
		for dir := list[i].Destination; dir != "/"; {
			dir = path.Dir(dir)
			if parent, ok := at[dir]; ok {
				place(parent) // places what lies above it itself
				break
			}
		}
		sorted = append(sorted, list[i])
	}
	for i := range list {
		place(i)
	}
	return sorted
}
