package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// paxXattr begins the names of extended attributes in a tar header.
const paxXattr = "SCHILY.xattr."

// permissions are the bits of a mode that are not the type.
const permissions = 0o7777

// Pack writes a bundle, which Survey has found nothing against.
func Pack(ctx context.Context, w io.Writer, c Content) error {
	p := &packer{ctx: ctx, tar: tar.NewWriter(w)}
	err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: ConfigName, Mode: 0o600, Size: int64(len(c.Config)), Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	if _, err := p.tar.Write(c.Config); err != nil {
		return err
	}
	for _, dir := range c.parents() {
		if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatPAX}); err != nil {
			return err
		}
	}
	for _, tree := range c.Trees {
		if err := walk(tree, p.add); err != nil {
			return fmt.Errorf("send bundle: %w", err)
		}
	}
	return p.tar.Close()
}

type packer struct {
	ctx context.Context
	tar *tar.Writer
}

func (p *packer) add(e entry) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	if reason := e.unsendable(); reason != "" {
		return fmt.Errorf("%q: %s", e.path, reason)
	}
	h := &tar.Header{
		Name: e.name, Mode: int64(e.stat.Mode & permissions), Uid: int(e.stat.Uid), Gid: int(e.stat.Gid),
		ModTime: time.Unix(e.stat.Mtim.Unix()), Format: tar.FormatPAX,
	}
	if e.linkTo != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, e.linkTo
		return p.tar.WriteHeader(h)
	}
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		return p.opened(e, h, unix.O_DIRECTORY, nil)
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, e.stat.Size
		return p.opened(e, h, 0, p.copy)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFLNK:
		target, err := e.root.Readlink(e.rel)
		if err != nil {
			return fmt.Errorf("read symlink %q: %w", e.path, err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	}
	return p.tar.WriteHeader(h)
}

// opened writes the header of an entry that can have extended attributes, and its
// content by copy, if that is not nil.
func (p *packer) opened(e entry, h *tar.Header, flags int, copy func(*os.File, int64) error) error {
	f, err := e.root.OpenFile(e.rel, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", e.path, err)
	}
	defer f.Close()
	if h.PAXRecords, err = readXattrs(f); err != nil {
		return fmt.Errorf("extended attributes of %q: %w", e.path, err)
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%q: %w", e.path, err)
	}
	if copy == nil {
		return nil
	}
	if err := copy(f, h.Size); err != nil {
		return fmt.Errorf("%q: %w", e.path, err)
	}
	var after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return err
	}
	if after.Ino != e.stat.Ino || after.Size != e.stat.Size || after.Mtim != e.stat.Mtim || after.Ctim != e.stat.Ctim {
		return fmt.Errorf("%q: %w", e.path, ErrChanged)
	}
	return nil
}

func (p *packer) copy(f *os.File, size int64) error {
	n, err := io.CopyN(p.tar, f, size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it has %d bytes, had %d", ErrChanged, n, size)
	}
	return err
}

// hostXattrs are extended attributes that say something about a host, not about a file.
var hostXattrs = map[string]bool{"security.selinux": true, "security.ima": true, "security.evm": true}

// sentXattrs goes through a list of names as the host gives it, and leaves out what is not sent.
func sentXattrs(list []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
			if !hostXattrs[name] && !yield(name) {
				return
			}
		}
	}
}

// xattrBytes is what Size counts of an entry's extended attributes.
func (e entry) xattrBytes() (total uint64, err error) {
	kind := e.stat.Mode & unix.S_IFMT
	if e.otherMount || e.linkTo != "" || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return 0, nil
	}
	n, err := unix.Llistxattr(e.path, nil)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	names := make([]byte, maxXattrBytes)
	if n, err = unix.Llistxattr(e.path, names); err != nil {
		return 0, err
	}
	for name := range sentXattrs(names[:n]) {
		size, err := unix.Lgetxattr(e.path, name, nil)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", name, err)
		}
		total += uint64(len(name) + size)
	}
	return total, nil
}

// readXattrs returns a file's extended attributes as tar has them.
func readXattrs(f *os.File) (map[string]string, error) {
	names := make([]byte, maxXattrBytes)
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records := make(map[string]string)
	total := n
	for name := range sentXattrs(names[:n]) {
		if strings.ContainsAny(name, "=\n") {
			return nil, fmt.Errorf("%q: a name with = or a line's end cannot be sent", name)
		}
		value := make([]byte, maxXattrBytes)
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		if total += n; total > maxXattrBytes {
			return nil, fmt.Errorf("more than %d bytes", maxXattrBytes)
		}
		records[paxXattr+name] = string(value[:n])
	}
	return records, nil
}
