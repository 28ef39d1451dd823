package mounts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSymlinks bounds the symlinks in one path, as the kernel does.
const maxSymlinks = 40

// ResolveInRoot returns the host path of a container's path below root, with
// every symlink followed as the container would: absolute ones and ".." end at
// root, never above. What does not exist is kept as it is. Nobody may change the
// tree meanwhile.
func ResolveInRoot(root, destination string) (string, error) {
	current, rest := "/", destination
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := path.Join(current, name) // takes care of "", "." and ".."
		if name == "" || name == "." || name == ".." {
			current = next
			continue
		}
		target, err := os.Readlink(filepath.Join(root, next))
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
			current = next // not a symlink, or nothing
		case err != nil:
			return "", fmt.Errorf("resolve %q: %w", destination, err)
		default:
			if links++; links > maxSymlinks {
				return "", fmt.Errorf("resolve %q: %w", destination, unix.ELOOP)
			}
			if path.IsAbs(target) {
				current = "/"
			}
			rest = target + "/" + rest
		}
	}
	return filepath.Join(root, current), nil
}

// decideTmp says whether an internal tmpfs on /tmp hides nothing: the root has no
// /tmp, or an empty directory. What cannot be looked at is not hidden either.
func decideTmp(root string) TmpDecision {
	tmp, err := ResolveInRoot(root, "/tmp")
	if err != nil {
		return TmpNotMounted
	}
	dir, err := os.OpenFile(tmp, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return TmpMounted
	}
	if err != nil {
		return TmpNotMounted
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err == io.EOF {
		return TmpMounted
	}
	return TmpNotMounted
}
