package mounts

import (
	"fmt"
	"io"
	"os"
	"path"

	"github.com/moby/sys/mountinfo"
)

const (
	// maxTableBytes bounds what is read of a mount table: a host with the kernel's
	// default limit of 100,000 mounts has less.
	maxTableBytes = 64 << 20
	// mountTablePath is this process's mount table.
	mountTablePath = "/proc/self/mountinfo"
)

// TableEntry is one line of a mount table, its escapes undone.
type TableEntry struct {
	ID           int
	Major, Minor int
	Root         string // what of the filesystem is mounted
	MountPoint   string // absolute
	FSType       string
	Source       string // device path, or what the filesystem says instead
	Options      string // of this mount
}

// Table is a mount table in mount order: of two entries on one mount point the
// later one hides the other.
type Table []TableEntry

// ReadTable returns the mount table of this process.
func ReadTable() (Table, error) {
	f, err := os.Open(mountTablePath)
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	defer f.Close()
	return ParseTable(f)
}

// ParseTable reads a mount table in the form of /proc/PID/mountinfo.
func ParseTable(r io.Reader) (Table, error) {
	limited := &io.LimitedReader{R: r, N: maxTableBytes}
	infos, err := mountinfo.GetMountsFromReader(limited, nil)
	if err != nil {
		return nil, fmt.Errorf("parse mount table: %w", err)
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("parse mount table: more than %d bytes", maxTableBytes)
	}
	table := make(Table, 0, len(infos))
	for _, info := range infos {
		if !path.IsAbs(info.Mountpoint) {
			// The mount is outside of the reader's root: no path leads there.
			continue
		}
		table = append(table, TableEntry{
			ID: info.ID, Major: info.Major, Minor: info.Minor, Root: info.Root, MountPoint: info.Mountpoint,
			FSType: info.FSType, Source: info.Source, Options: info.Options,
		})
	}
	return table, nil
}

// holding returns the entry of the mount with an ID, or, where the kernel gives
// none, the one that a resolved path lies in.
func (t Table) holding(id int, resolved string) (TableEntry, bool) {
	best := -1
	for i := range t {
		if id != 0 && t[i].ID == id {
			return t[i], true
		}
		deeper := best < 0 || len(t[i].MountPoint) >= len(t[best].MountPoint)
		if deeper && below(resolved, path.Clean(t[i].MountPoint)) {
			best = i
		}
	}
	if best < 0 {
		return TableEntry{}, false
	}
	return t[best], true
}
