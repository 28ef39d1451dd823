package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// HostFacts say what on this host holds a path.
type HostFacts struct {
	Path       string `json:"path"` // with every symlink followed
	Major      int    `json:"major"`
	Minor      int    `json:"minor"`
	MountPoint string `json:"mountPoint"`
	FSType     string `json:"fsType"`
	Device     string `json:"device"` // the mount's source: a device path, or a server's
	// MapperName is the name of the device-mapper device, empty for others.
	MapperName string `json:"mapperName,omitempty"`
	// ReadOnly says that the mount or its filesystem takes no writes.
	ReadOnly bool `json:"readOnly,omitempty"`
	// System says that the path belongs to the host's kernel; it is never served.
	System bool `json:"system,omitempty"`
	// CanFollow says that another host can have the same storage at the same time.
	// A local disk cannot follow without a copy or a remote mount.
	CanFollow bool `json:"canFollow"`
}

// sharedFilesystems are those that several hosts can have mounted at once.
var sharedFilesystems = map[string]bool{
	"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "smbfs": true, "afs": true, "coda": true,
	"ceph": true, "glusterfs": true, "lustre": true, "gpfs": true, "beegfs": true, "orangefs": true, "pvfs2": true,
	"gfs2": true, "ocfs2": true, "wekafs": true, "panfs": true, "acfs": true,
	"fuse.ceph": true, "fuse.ceph-fuse": true, "fuse.glusterfs": true, "fuse.juicefs": true, "fuse.mfs": true, "fuse.moosefs": true,
	"fuse.seaweedfs": true, "fuse.s3fs": true, "fuse.sshfs": true, "fuse.gcsfuse": true, "fuse.rclone": true,
}

// Facts looks a path up on this host.
func Facts(path string) (HostFacts, error) {
	table, err := ReadTable()
	if err != nil {
		return HostFacts{}, err
	}
	return table.Facts(path)
}

// Facts looks a path up in this host's table, so that one table serves many
// paths.
func (t Table) Facts(path string) (HostFacts, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return HostFacts{}, fmt.Errorf("look up %q: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_MNT_ID, &st); err != nil {
		return HostFacts{}, fmt.Errorf("look up %q: %w", path, err)
	}
	var vfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &vfs); err != nil {
		return HostFacts{}, fmt.Errorf("look up %q: %w", path, err)
	}
	facts := HostFacts{Path: resolvedPath(fd, path), ReadOnly: vfs.Flags&unix.ST_RDONLY != 0}
	id := 0
	if st.Mask&unix.STATX_MNT_ID != 0 {
		id = int(st.Mnt_id)
	}
	entry, ok := t.holding(id, facts.Path)
	if !ok {
		return facts, fmt.Errorf("look up %q: no mount of the mount table holds it", path)
	}
	// The table's device, not stat's: btrfs and overlays show others for files.
	facts.Major, facts.Minor = entry.Major, entry.Minor
	facts.MountPoint, facts.FSType, facts.Device = entry.MountPoint, entry.FSType, entry.Source
	facts.System = IsSystemMount(facts.Path) || IsHostDevice(facts.Path, uint32(st.Mode)) ||
		entry.FSType == FilesystemProc || entry.FSType == FilesystemSysfs
	facts.CanFollow = sharedFilesystems[entry.FSType]
	facts.MapperName, err = mapperName("/sys/dev/block", entry.Major, entry.Minor)
	return facts, err
}

// mapperName returns the device-mapper name of a block device, or "".
func mapperName(blockDevices string, major, minor int) (string, error) {
	name, err := os.ReadFile(filepath.Join(blockDevices, fmt.Sprintf("%d:%d", major, minor), "dm/name"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read device-mapper name: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}
