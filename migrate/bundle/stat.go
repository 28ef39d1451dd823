package bundle

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// statOf returns what the host says of a file.
func statOf(info fs.FileInfo) unix.Stat_t {
	s := info.Sys().(*syscall.Stat_t)
	return unix.Stat_t{
		Dev: s.Dev, Ino: s.Ino, Nlink: s.Nlink, Mode: s.Mode, Uid: s.Uid, Gid: s.Gid, Rdev: s.Rdev, Size: s.Size,
		Mtim: unix.Timespec(s.Mtim), Ctim: unix.Timespec(s.Ctim),
	}
}
