package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Names in a bundle.
const (
	ConfigName = "config.json"
	RootName   = "rootfs"
)

// Bounds of a bundle.
const (
	MaxEntries     = 1 << 20  // files and directories
	MaxConfigBytes = 16 << 20 // of config.json
	maxNameBytes   = 4096     // of an entry's path
	maxXattrBytes  = 64 << 10 // of one file's extended attributes together
)

// Content is what a bundle is made of.
type Content struct {
	Config []byte // config.json
	Trees  []Tree
}

// Tree is a directory or a file of this host.
type Tree struct {
	Source string // its path
	Name   string // its path in the bundle, clean and relative
}

// parents returns the directories of the bundle that trees are put into, outer ones
// first.
func (c Content) parents() []string {
	seen := map[string]bool{".": true}
	var all []string
	var add func(string)
	add = func(dir string) {
		if !seen[dir] {
			seen[dir] = true
			add(path.Dir(dir))
			all = append(all, dir)
		}
	}
	for _, tree := range c.Trees {
		add(path.Dir(tree.Name))
	}
	return all
}

// Size is how much a bundle is.
type Size struct {
	Entries uint64
	Bytes   uint64 // of regular files and of all extended attributes, with the names of these
}

// Problem is a thing that cannot be sent.
type Problem struct {
	Path    string // on this host
	Message string
}

// maxProblems bounds the problems that Survey names.
const maxProblems = 50

// Survey looks through the trees without reading a file.
func Survey(c Content) (Size, []Problem, error) {
	size := Size{Entries: 1 + uint64(len(c.parents())), Bytes: uint64(len(c.Config))}
	var problems []Problem
	for _, tree := range c.Trees {
		err := walk(tree, func(e entry) error {
			if size.Entries++; size.Entries > MaxEntries {
				return fmt.Errorf("%q: %w: limit is %d", tree.Source, ErrTooMany, MaxEntries)
			}
			if reason := e.unsendable(); reason != "" && len(problems) < maxProblems {
				problems = append(problems, Problem{Path: e.path, Message: reason})
			}
			if e.stat.Mode&unix.S_IFMT == unix.S_IFREG && e.linkTo == "" {
				size.Bytes += uint64(e.stat.Size)
			}
			n, err := e.xattrBytes()
			if err != nil {
				return fmt.Errorf("extended attributes of %q: %w", e.path, err)
			}
			size.Bytes += n
			return nil
		})
		if err != nil {
			return size, problems, err
		}
	}
	return size, problems, nil
}

// Errors that callers branch on.
var (
	ErrTooMany = errors.New("too many files to send")
	// ErrChanged says that a file changed while it was sent.
	ErrChanged = errors.New("it changed while it was sent")
	// ErrLimit says that a bundle is larger than was agreed.
	ErrLimit = errors.New("bundle is larger than was announced")
	// ErrStream says that what came is not a bundle.
	ErrStream = errors.New("malformed bundle")
)

// entry is a file on its way out.
type entry struct {
	root *os.Root // of its tree, or of the directory that a lone file is in
	rel  string   // in root
	path string   // on this host
	name string   // in the bundle
	stat unix.Stat_t
	// linkTo is the name of an earlier entry that is the same file.
	linkTo string
	// otherMount says that another filesystem is mounted here.
	otherMount bool
}

// walk visits a tree, parents first. What other filesystems have is left out.
func walk(tree Tree, visit func(entry) error) error {
	source, err := filepath.EvalSymlinks(tree.Source) // what a gofer serves
	if err != nil {
		return err
	}
	var top unix.Stat_t
	if err := unix.Lstat(source, &top); err != nil {
		return fmt.Errorf("stat %q: %w", source, err)
	}
	dir, start := source, "."
	if top.Mode&unix.S_IFMT != unix.S_IFDIR {
		dir, start = filepath.Dir(source), filepath.Base(source)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	links := make(map[[2]uint64]string)
	return fs.WalkDir(root.FS(), start, func(rel string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read %q: %w", filepath.Join(dir, rel), err)
		}
		e := entry{root: root, rel: rel, path: filepath.Join(dir, rel), name: tree.Name}
		if start == "." {
			e.name = path.Join(tree.Name, rel)
		}
		if e.stat, err = lstat(root, rel); err != nil {
			return fmt.Errorf("stat %q: %w", e.path, err)
		}
		e.otherMount = e.stat.Dev != top.Dev
		if e.stat.Nlink > 1 && e.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			id := [2]uint64{e.stat.Dev, e.stat.Ino}
			if e.linkTo = links[id]; e.linkTo == "" {
				links[id] = e.name
			}
		}
		if err := visit(e); err != nil {
			return err
		}
		if e.otherMount && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

func lstat(root *os.Root, rel string) (unix.Stat_t, error) {
	info, err := root.Lstat(rel)
	if err != nil {
		return unix.Stat_t{}, err
	}
	return statOf(info), nil
}

// unsendable says why an entry cannot be sent, or "".
func (e entry) unsendable() string {
	if e.otherMount {
		return "another filesystem is mounted here"
	}
	if len(e.name) > maxNameBytes {
		return fmt.Sprintf("its path has %d bytes, limit is %d", len(e.name), maxNameBytes)
	}
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO:
		return ""
	case unix.S_IFSOCK:
		return "it is a socket"
	default:
		return fmt.Sprintf("it is a device (%d:%d)", unix.Major(e.stat.Rdev), unix.Minor(e.stat.Rdev))
	}
}

// below says whether a clean path is dir or something in it.
func below(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }
