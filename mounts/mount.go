package mounts

// Filesystems of compiled mounts, by the names that a restore environment uses.
const (
	FilesystemGofer    = "9p" // files of the host, served by a gofer
	FilesystemProc     = "proc"
	FilesystemSysfs    = "sysfs"
	FilesystemDevtmpfs = "devtmpfs" // the sentry's "dev"
	FilesystemDevpts   = "devpts"
	FilesystemTmpfs    = "tmpfs"
	FilesystemMqueue   = "mqueue"
	FilesystemCgroup   = "cgroup"
)

const (
	// deviceNone is the device of everything that lives in the sandbox alone.
	deviceNone = "none"
	// goferDevicePrefix and the destination make the device of a served mount.
	goferDevicePrefix = "9pfs-"
)

// DeviceName returns the device of a mount. It depends on the destination alone,
// so it is the same on every host.
func DeviceName(filesystem, destination string) string {
	if filesystem == FilesystemGofer {
		return goferDevicePrefix + destination
	}
	return deviceNone
}

// Flags are the mount flags that a sandbox honours.
type Flags struct {
	ReadOnly bool `json:"readOnly,omitempty"`
	NoATime  bool `json:"noAtime,omitempty"`
	NoExec   bool `json:"noExec,omitempty"`
	NoSUID   bool `json:"noSuid,omitempty"`
	NoDev    bool `json:"noDev,omitempty"`
}

// Origin says why a mount is in the list.
type Origin string

// The reasons for a mount.
const (
	OriginRoot      Origin = "root"      // the specification's root
	OriginMandatory Origin = "mandatory" // every container has it
	OriginSpec      Origin = "spec"      // the specification's mounts
	OriginTmp       Origin = "tmp"       // the internal /tmp
)

// Mount is one mount of a container.
type Mount struct {
	Destination string `json:"destination"` // absolute and clean, inside the container
	Device      string `json:"device"`
	Filesystem  string `json:"filesystem"`

	// Source is the absolute host path of what a gofer serves, symlinks in it
	// not yet followed; empty for everything else.
	Source string `json:"source,omitempty"`
	// SourceIsFile says that Source is not a directory.
	SourceIsFile bool `json:"sourceIsFile,omitempty"`
	// SourceExternal says that Source is a bind outside the bundle: the same path
	// is expected wherever the bundle is used.
	SourceExternal bool `json:"sourceExternal,omitempty"`
	// Recursive also serves what the host has mounted below Source (rbind).
	Recursive bool `json:"recursive,omitempty"`

	Flags Flags  `json:"flags,omitzero"`
	Data  string `json:"data,omitempty"` // options of the filesystem: key=value,…

	// Overlay puts a writable layer in the sandbox's memory on top. Source is then
	// never written.
	Overlay bool `json:"overlay,omitempty"`

	Origin Origin `json:"origin"`
	// Shared is set where containers of one sandbox share this mount. The first
	// one that names it mounts it, the others bind it.
	Shared *SharedHint `json:"shared,omitempty"`
}

// ServedReadOnly says whether a gofer must refuse every write to the mount's
// source: a layer under an overlay is never written.
func (m *Mount) ServedReadOnly() bool { return m.Flags.ReadOnly || m.Overlay }

// SharedInPod says whether the mount is one that the containers of a sandbox
// share and that lives in the sandbox alone.
func (m *Mount) SharedInPod() bool {
	return m.Shared != nil && m.Shared.Share == SharePod && m.Filesystem == FilesystemTmpfs
}

// List is what Compile returns. It travels in images.
type List struct {
	// Mounts begin with the root; each stands after its parent.
	Mounts []Mount `json:"mounts"`
	// Tmp is the decision about the internal /tmp. A restore passes it on, so that
	// the target's /tmp is not looked at again.
	Tmp      TmpDecision `json:"tmp"`
	Warnings []Warning   `json:"warnings,omitempty"`
}

// GoferMounts returns the mounts that a gofer serves, in mount order: the order
// of the gofer's sockets.
func (l *List) GoferMounts() []Mount {
	var served []Mount
	for _, m := range l.Mounts {
		if m.Filesystem == FilesystemGofer {
			served = append(served, m)
		}
	}
	return served
}

// TmpDecision says whether the container has an internal tmpfs on /tmp that its
// specification did not ask for.
type TmpDecision string

// The decisions about /tmp.
const (
	TmpUndecided  TmpDecision = ""           // Compile looks at the root
	TmpMounted    TmpDecision = "mounted"    // unless the specification mounts /tmp itself
	TmpNotMounted TmpDecision = "notMounted" // whatever the root has there
)

// OverlayMode says which writable gofer mounts get a writable layer in the
// sandbox's memory.
type OverlayMode string

// The overlay modes.
const (
	OverlayNone OverlayMode = ""     // writes go to the host
	OverlayRoot OverlayMode = "root" // the root, if it is writable
	OverlayAll  OverlayMode = "all"  // the root and every bind, where writable
)

// Options control Compile. The zero value compiles strictly, without overlays,
// and can resolve only absolute paths.
type Options struct {
	// Bundle is the absolute directory that a relative root path and relative
	// bind sources start from.
	Bundle string
	// Overlay puts writable layers over what a gofer serves. Default: none.
	Overlay OverlayMode
	// Lenient leaves out mounts of unknown type, with a warning, instead of
	// refusing.
	Lenient bool
	// TmpDecision is what was decided when the sandbox was created. Default: look.
	TmpDecision TmpDecision
}
