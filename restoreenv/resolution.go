package restoreenv

import "github.com/sbxmigrate/sbxmigrate/mounts"

// Backing is what backs one saved mount on this host.
type Backing struct {
	Container   string `json:"container"`
	Filesystem  string `json:"filesystem"`
	Device      string `json:"device"`
	Destination string `json:"destination"`
	// Source is the host path that a gofer must serve; empty for what the saved
	// kernel has in itself, and where nothing on this host fits.
	Source    string `json:"source,omitempty"`
	IsFile    bool   `json:"isFile,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"`  // the gofer must refuse writes
	Recursive bool   `json:"recursive,omitempty"` // with what is mounted below
	Mapped    bool   `json:"mapped,omitempty"`    // Source was given by the user
}

// Served says whether a gofer must serve the mount.
func (b *Backing) Served() bool { return b.Filesystem == mounts.FilesystemGofer }

// Resolution has the backing of every saved mount: by container, then what
// gofers serve in saved order, then the rest. Where Findings refuse, some have
// no source.
type Resolution struct {
	Mounts []Backing `json:"mounts"`
}

// Gofer returns what the gofer of one container must serve, in saved order: the
// order of its sockets.
func (r *Resolution) Gofer(container string) []Backing {
	var served []Backing
	for _, b := range r.Mounts {
		if b.Container == container && b.Served() {
			served = append(served, b)
		}
	}
	return served
}
