package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Unpack writes a bundle into the empty directory dir, whose owner and mode it
// leaves. It reads r up to its end. limit bounds what it writes. Sync makes it durable.
func Unpack(r io.Reader, dir string, limit Size) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, left: limit, kinds: map[string]byte{".": tar.TypeDir}}
	defer u.leaveParent()
	reader := tar.NewReader(r)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStream, err)
		}
		if err := u.entry(h, reader); err != nil {
			return fmt.Errorf("unpack %q: %w", shortened(h.Name), err)
		}
	}
	// What stands behind the archive's end belongs to it.
	if n, err := io.Copy(io.Discard, io.LimitReader(r, maxPaddingBytes+1)); err != nil || n > maxPaddingBytes {
		return fmt.Errorf("%w: data after its end (%v)", ErrStream, err)
	}
	if u.kinds[ConfigName] != tar.TypeReg {
		return fmt.Errorf("%w: it has no %s", ErrStream, ConfigName)
	}
	return u.finish()
}

// maxPaddingBytes is how much may stand behind the end of an archive.
const maxPaddingBytes = 64 << 10

// unpacker writes a bundle.
type unpacker struct {
	root *os.Root
	left Size
	// kinds has every entry's type by its name.
	kinds map[string]byte
	// dirs are the directories in the order of their making; their times and modes come last.
	dirs []directory

	// parent is the open directory of the newest entry.
	parent     *os.File
	parentName string
}

type directory struct {
	name  string
	mode  uint32
	mtime time.Time
}

// entry writes one entry.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.check(h)
	if err != nil {
		return err
	}
	parent, err := u.enter(path.Dir(name))
	if err != nil {
		return err
	}
	base, fd := path.Base(name), int(parent.Fd())
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.makeDirectory(fd, base, name, h)
	case tar.TypeReg:
		err = u.makeFile(fd, base, h, content)
	case tar.TypeLink:
		err = u.link(fd, base, h.Linkname)
	case tar.TypeSymlink:
		if err = unix.Symlinkat(h.Linkname, fd, base); err == nil {
			err = settle(fd, base, h)
		}
	case tar.TypeFifo:
		if err = unix.Mknodat(fd, base, unix.S_IFIFO|0o600, 0); err == nil {
			if err = settle(fd, base, h); err == nil {
				err = unix.Fchmodat(fd, base, uint32(h.Mode), 0) // it is ours, and no symlink
			}
		}
	default:
		err = fmt.Errorf("%w: entry of type %q", ErrStream, h.Typeflag)
	}
	u.kinds[name] = h.Typeflag
	return err
}

// check returns an entry's clean name, if it can be one here, and counts it.
func (u *unpacker) check(h *tar.Header) (string, error) {
	name := strings.TrimSuffix(h.Name, "/")
	switch {
	case name == "" || len(name) > maxNameBytes || strings.ContainsRune(name, 0) || path.Clean(name) != name ||
		path.IsAbs(name) || name == "." || below(name, ".."):
		return "", fmt.Errorf("%w: a name that is not clean and relative", ErrStream)
	case u.kinds[name] != 0:
		return "", fmt.Errorf("%w: a second entry of this name", ErrStream)
	case u.kinds[path.Dir(name)] != tar.TypeDir:
		return "", fmt.Errorf("%w: no directory was sent to put it into", ErrStream)
	case h.Mode&^permissions != 0 || !isOwner(h.Uid) || !isOwner(h.Gid) || h.Size < 0:
		return "", fmt.Errorf("%w: mode %o, owner %d:%d, %d bytes", ErrStream, h.Mode, h.Uid, h.Gid, h.Size)
	case u.left.Entries == 0:
		return "", ErrLimit
	}
	u.left.Entries--
	bytes := sentXattrBytes(h)
	if bytes > maxXattrBytes {
		return "", fmt.Errorf("%w: %d bytes of extended attributes, limit is %d", ErrStream, bytes, maxXattrBytes)
	}
	if h.Typeflag == tar.TypeReg {
		bytes += uint64(h.Size)
	}
	if bytes > u.left.Bytes {
		return "", ErrLimit
	}
	u.left.Bytes -= bytes
	return name, nil
}

// isOwner says whether a number can be a user's or a group's. The last one tells the host to leave the owner as it is.
func isOwner(id int) bool { return id >= 0 && id < math.MaxUint32 }

// sentXattrBytes is what Size counts of an entry's extended attributes.
func sentXattrBytes(h *tar.Header) (n uint64) {
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			n += uint64(len(name) + len(value))
		}
	}
	return n
}

// enter opens a directory that the stream has made. The unpacker keeps it until
// the next one.
func (u *unpacker) enter(name string) (*os.File, error) {
	if u.parent != nil && u.parentName == name {
		return u.parent, nil
	}
	f, err := u.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	u.leaveParent()
	u.parent, u.parentName = f, name
	return f, nil
}

func (u *unpacker) leaveParent() {
	if u.parent != nil {
		u.parent.Close()
		u.parent = nil
	}
}

func (u *unpacker) makeDirectory(parent int, base, name string, h *tar.Header) error {
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	f, err := openAt(parent, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	u.dirs = append(u.dirs, directory{name: name, mode: uint32(h.Mode), mtime: h.ModTime})
	return writeXattrs(f, h)
}

func (u *unpacker) makeFile(parent int, base string, h *tar.Header, content io.Reader) error {
	f, err := openAt(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeSparse(f, content, h.Size); err != nil {
		return err
	}
	// The owner first: changing it takes some bits of the mode and capabilities away.
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(h.Mode)); err != nil {
		return err
	}
	if err := writeXattrs(f, h); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// link makes another name of a file that was sent.
func (u *unpacker) link(parent int, base, target string) error {
	switch u.kinds[target] {
	case tar.TypeReg, tar.TypeSymlink, tar.TypeFifo:
	default:
		return fmt.Errorf("%w: a link to %q, which was not sent", ErrStream, shortened(target))
	}
	from, err := u.root.OpenFile(path.Dir(target), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	return unix.Linkat(int(from.Fd()), path.Base(target), parent, base, 0)
}

// finish gives the directories their modes and times, those inside first.
func (u *unpacker) finish() error {
	for _, d := range slices.Backward(u.dirs) {
		parent, err := u.enter(path.Dir(d.name))
		if err != nil {
			return err
		}
		fd, base := int(parent.Fd()), path.Base(d.name)
		if err := unix.Fchmodat(fd, base, d.mode, 0); err != nil {
			return err
		}
		if err := setTime(fd, base, d.mtime); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes what was unpacked into dir durable, as one call: a bundle has many files.
func Sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync bundle: %w", err)
	}
	return nil
}

func openAt(parent int, base string, flags int) (*os.File, error) {
	fd, err := unix.Openat(parent, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// settle gives what cannot be opened its owner and time.
func settle(parent int, base string, h *tar.Header) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

func setTime(parent int, base string, mtime time.Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}}
	return unix.UtimesNanoAt(parent, base, times, unix.AT_SYMLINK_NOFOLLOW)
}

func writeXattrs(f *os.File, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil {
			return fmt.Errorf("set extended attribute %q: %w", shortened(name), err)
		}
	}
	return nil
}

// blockBytes is what is left a hole where it has only zeros.
const blockBytes = 64 << 10

var zeroBlock = make([]byte, blockBytes)

// writeSparse writes size bytes, and makes holes of blocks of zeros.
func writeSparse(f *os.File, r io.Reader, size int64) error {
	buffer := make([]byte, min(size, blockBytes))
	for at := int64(0); at < size; at += int64(len(buffer)) {
		buffer = buffer[:min(size-at, int64(len(buffer)))]
		if _, err := io.ReadFull(r, buffer); err != nil {
			return fmt.Errorf("%w: %w", ErrStream, err)
		}
		if bytes.Equal(buffer, zeroBlock[:len(buffer)]) {
			continue
		}
		if _, err := f.WriteAt(buffer, at); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

// shortened keeps what a peer sent from filling a log.
func shortened(name string) string {
	const most = 128
	if len(name) > most {
		return name[:most] + "…"
	}
	return name
}
