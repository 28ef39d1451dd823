package restoreenv

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// fingerprintPrefix names what a fingerprint is made of, so that another make
// never compares equal by accident.
const fingerprintPrefix = "tree1:"

// MaxFingerprintEntries bounds the files that Fingerprint looks at.
const MaxFingerprintEntries = 1 << 20

// ErrTooManyFiles says that a tree has more than MaxFingerprintEntries.
var ErrTooManyFiles = errors.New("too many files to identify")

// Fingerprint identifies what is at a path by the names, types, permissions,
// sizes of regular files and targets of symlinks in the whole tree. It reads no
// file and no time stamp, so a faithful copy has the same fingerprint, and so
// has a file whose content changed in place to the same size. What other
// filesystems are mounted below is left out, except for its place.
func Fingerprint(root string) (string, error) {
	return fingerprint(root, MaxFingerprintEntries)
}

func fingerprint(root string, maxEntries int) (string, error) {
	// A symlink at the root is followed, those below are content.
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", err
	}
	var top unix.Stat_t
	if err := unix.Lstat(root, &top); err != nil {
		return "", fmt.Errorf("stat %q: %w", root, err)
	}
	hash, entries := sha256.New(), 0
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries {
			return fmt.Errorf("%q: %w", root, ErrTooManyFiles)
		}
		line, otherMount, err := describeFile(root, name, top.Dev)
		if err != nil {
			return err
		}
		hash.Write([]byte(line))
		if otherMount && entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return fingerprintPrefix + hex.EncodeToString(hash.Sum(nil)), nil
}

// describeFile returns a file's line in the fingerprint, and whether it is on
// another device than the root of the tree.
func describeFile(root, name string, device uint64) (line string, otherMount bool, err error) {
	relative, err := filepath.Rel(root, name)
	if err != nil {
		return "", false, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return "", false, fmt.Errorf("stat %q: %w", name, err)
	}
	if st.Dev != device {
		return fmt.Sprintf("%q mount\n", relative), true, nil
	}
	var size int64
	var target string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		size = st.Size
	case unix.S_IFLNK:
		if target, err = os.Readlink(name); err != nil {
			return "", false, err
		}
	}
	return fmt.Sprintf("%q %o %d %q\n", relative, st.Mode, size, target), false, nil
}
