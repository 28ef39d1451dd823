package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// describe lists all that a copy must have.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	inodes := make(map[uint64]string)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", st.Size, data[:min(len(data), 32)])
		case unix.S_IFLNK:
			target, _ := os.Readlink(name)
			line += " " + target
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			value := make([]byte, 64)
			if n, err := unix.Getxattr(name, "user.color", value); err == nil {
				line += fmt.Sprintf(" color=%x", value[:n])
			}
		}
		if st.Nlink > 1 && !d.IsDir() {
			if first := inodes[st.Ino]; first != "" {
				line += " = " + first
			}
			inodes[st.Ino] = rel
		}
		if rel != "." { // the receiver's own
			lines = append(lines, line)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tree makes a directory with everything that can be sent.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.MkdirAll(in("bin/sub"), 0o755), os.Mkdir(in("closed"), 0o555),
		os.WriteFile(in("bin/program"), []byte("#!/bin/true"), 0o755), os.WriteFile(in("empty"), nil, 0o600),
		os.WriteFile(in("holes"), append(make([]byte, 200<<10), "end"...), 0o644),
		os.WriteFile(in("closed/file"), []byte("inside"), 0o400),
		os.Link(in("bin/program"), in("bin/sub/same")), os.Symlink("../../etc/passwd", in("bin/out")), os.Symlink("/dev/null", in("abs")),
		unix.Mkfifo(in("fifo"), 0o640), os.Lchown(in("abs"), 12, 34), os.Chown(in("empty"), 1000, 100),
		os.Chmod(in("bin/program"), 0o755|fs.ModeSetuid),
		unix.Setxattr(in("bin/program"), "user.color", []byte{0, 1, '\n', 0xff}, 0), unix.Setxattr(in("closed"), "user.color", []byte("blue"), 0),
		os.WriteFile(in("name \n with = and ő"), []byte("x"), 0o644),
		os.WriteFile(in(strings.Repeat("n", 255)), []byte("long"), 0o644),
	)
	when := time.Unix(1234567890, 123456789)
	for _, name := range []string{"bin/program", "closed/file", "closed", "bin"} {
		must(t, os.Chtimes(in(name), when, when))
	}
	return dir
}

func pack(t *testing.T, c Content) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, Pack(t.Context(), &b, c))
	return b.Bytes()
}

func TestCopyIsFaithful(t *testing.T) {
	source := tree(t)
	file := filepath.Join(t.TempDir(), "lone")
	must(t, os.WriteFile(file, []byte("lone"), 0o600))
	c := Content{Config: []byte(`{"ociVersion":"1.0"}`), Trees: []Tree{{source, RootName}, {file, "some/where/lone"}}}
	size, problems, err := Survey(c)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	before := describe(t, source)
	data := pack(t, c)
	to := t.TempDir()
	must(t, Unpack(bytes.NewReader(data), to, size))
	if after := describe(t, filepath.Join(to, RootName)); !slices.Equal(before, after) {
		t.Errorf("copy differs:\n%s\nwant\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	for name, want := range map[string]string{"some/where/lone": "lone", ConfigName: string(c.Config)} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, RootName, "holes"), &st))
	if st.Blocks*512 >= st.Size {
		t.Errorf("a file of zeros takes %d of %d bytes", st.Blocks*512, st.Size)
	}
	// Exactly what was announced is enough, and not a byte less.
	for _, less := range []Size{{size.Entries - 1, size.Bytes}, {size.Entries, size.Bytes - 1}} {
		if err := Unpack(bytes.NewReader(data), t.TempDir(), less); !errors.Is(err, ErrLimit) {
			t.Errorf("unpacking with limit %+v: %v", less, err)
		}
	}
	for _, n := range []int{0, 1, 512, len(data) / 2} {
		if err := Unpack(bytes.NewReader(data[:n]), t.TempDir(), size); err == nil {
			t.Errorf("a stream cut after %d of %d bytes is taken", n, len(data))
		}
	}
}

func TestSurveyNamesWhatCannotBeSent(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}), os.Mkdir(filepath.Join(dir, "mount"), 0o755))
	must(t, unix.Mount("none", filepath.Join(dir, "mount"), "tmpfs", 0, ""))
	defer unix.Unmount(filepath.Join(dir, "mount"), 0)
	c := Content{Trees: []Tree{{dir, RootName}}}
	_, problems, err := Survey(c)
	must(t, err)
	got := make(map[string]string)
	for _, p := range problems {
		got[filepath.Base(p.Path)] = p.Message
	}
	for name, want := range map[string]string{"null": "device (1:3)", "socket": "socket", "mount": "another filesystem"} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if err := Pack(t.Context(), new(bytes.Buffer), c); err == nil {
		t.Error("it is packed all the same")
	}
}

// A changing writer changes a file of the tree when the first byte of it has been written.
type changing struct {
	bytes.Buffer
	change func()
}

func (c *changing) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("content")) && c.change != nil {
		c.change()
		c.change = nil
	}
	return c.Buffer.Write(b)
}

func TestPackNoticesAChange(t *testing.T) {
	for name, change := range map[string]func(string) error{
		"written":  func(f string) error { return os.WriteFile(f, bytes.Repeat([]byte("CONTENT "), 100_000), 0o600) },
		"cut":      func(f string) error { return os.Truncate(f, 5) },
		"lengthen": func(f string) error { return os.Truncate(f, 1<<21) },
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "file")
		must(t, os.WriteFile(file, bytes.Repeat([]byte("content "), 100_000), 0o600))
		w := &changing{change: func() { must(t, change(file)) }}
		if err := Pack(t.Context(), w, Content{Trees: []Tree{{dir, RootName}}}); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pack(ctx, new(bytes.Buffer), Content{Trees: []Tree{{t.TempDir(), RootName}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// archive makes a stream by hand.
func archive(headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append([]tar.Header{{Typeflag: tar.TypeReg, Name: ConfigName}}, headers...) {
		w.WriteHeader(&h)
		w.Write(make([]byte, h.Size))
	}
	w.Close()
	return b.Bytes()
}

func TestUnpackRefuses(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("safe"), 0o600))
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "d/"}
	for name, headers := range map[string][]tar.Header{
		"parent":             {{Typeflag: tar.TypeReg, Name: "../victim"}},
		"parent inside":      {dir, {Typeflag: tar.TypeReg, Name: "d/../../victim"}},
		"absolute":           {{Typeflag: tar.TypeReg, Name: outside + "/victim"}},
		"unclean":            {dir, {Typeflag: tar.TypeReg, Name: "d//x"}},
		"dot":                {{Typeflag: tar.TypeDir, Name: "./"}},
		"no directory":       {{Typeflag: tar.TypeReg, Name: "nowhere/x"}},
		"through a symlink":  {{Typeflag: tar.TypeSymlink, Name: "s", Linkname: outside}, {Typeflag: tar.TypeReg, Name: "s/victim"}},
		"over a symlink":     {{Typeflag: tar.TypeSymlink, Name: "s", Linkname: outside + "/victim"}, {Typeflag: tar.TypeReg, Name: "s", Size: 4}},
		"directory again":    {dir, dir},
		"link outside":       {{Typeflag: tar.TypeLink, Name: "l", Linkname: outside + "/victim"}},
		"link up":            {{Typeflag: tar.TypeLink, Name: "l", Linkname: "../victim"}},
		"link to nothing":    {{Typeflag: tar.TypeLink, Name: "l", Linkname: "missing"}},
		"link to directory":  {dir, {Typeflag: tar.TypeLink, Name: "l", Linkname: "d"}},
		"device":             {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"block device":       {{Typeflag: tar.TypeBlock, Name: "disk"}},
		"config is replaced": {{Typeflag: tar.TypeReg, Name: ConfigName}},
		"too large":          {{Typeflag: tar.TypeReg, Name: "large", Size: 2 << 20}},
		"owner -1":           {{Typeflag: tar.TypeReg, Name: "f", Uid: math.MaxUint32, Format: tar.FormatPAX}},
		"group -1":           {{Typeflag: tar.TypeDir, Name: "d/", Gid: math.MaxUint32, Format: tar.FormatPAX}},
		"owner beyond":       {{Typeflag: tar.TypeReg, Name: "f", Uid: 1 << 32, Format: tar.FormatPAX}},
	} {
		if err := Unpack(bytes.NewReader(archive(headers...)), t.TempDir(), Size{Entries: 100, Bytes: 1 << 20}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(outside, "victim")); string(got) != "safe" {
		t.Errorf("a file outside has %q", got)
	}
	trailing := append(archive(), make([]byte, 2*maxPaddingBytes)...)
	if err := Unpack(bytes.NewReader(trailing), t.TempDir(), Size{Entries: 10}); !errors.Is(err, ErrStream) {
		t.Errorf("trailing data: %v", err)
	}
	must(t, Unpack(bytes.NewReader(archive(dir)), t.TempDir(), Size{Entries: 10})) // the tests above refuse for their reasons
}

// The bound of one file's extended attributes is that of all together: a file system may take each.
func TestUnpackBoundsExtendedAttributes(t *testing.T) {
	const count = 8
	several := func(each int) tar.Header {
		h := attributed("f", 0)
		clear(h.PAXRecords)
		for i := range count {
			h.PAXRecords[fmt.Sprintf("%suser.%d", paxXattr, i)] = strings.Repeat("x", each-len("user.0"))
		}
		return h
	}
	unpack := func(each int) error {
		return Unpack(bytes.NewReader(archive(several(each))), t.TempDir(), Size{Entries: 10, Bytes: 1 << 20})
	}
	if err := unpack(maxXattrBytes/count + 1); !errors.Is(err, ErrStream) {
		t.Errorf("extended attributes of more than %d bytes: %v, want %v", maxXattrBytes, err, ErrStream)
	}
	if err := unpack(maxXattrBytes / count); errors.Is(err, ErrStream) { // whether the file system takes them is another matter
		t.Errorf("extended attributes of %d bytes: %v", maxXattrBytes, err)
	}
}

// attributed is a file with an extended attribute of so many bytes.
func attributed(name string, bytes int) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Format: tar.FormatPAX, PAXRecords: map[string]string{paxXattr + "user.x": strings.Repeat("x", bytes)}}
}

// Extended attributes take room, too: files that have nothing else do not get past the limit.
func TestUnpackCountsExtendedAttributes(t *testing.T) {
	const each = 1000
	files := archive(attributed("a", each), attributed("b", each))
	size := Size{Entries: 10, Bytes: 2 * (each + uint64(len("user.x")))}
	must(t, Unpack(bytes.NewReader(files), t.TempDir(), size))
	size.Bytes--
	if err := Unpack(bytes.NewReader(files), t.TempDir(), size); !errors.Is(err, ErrLimit) {
		t.Errorf("unpacking a byte of extended attributes more than was announced: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive())
	f.Add(archive(tar.Header{Typeflag: tar.TypeDir, Name: "rootfs/", Mode: 0o755}, tar.Header{Typeflag: tar.TypeSymlink, Name: "rootfs/s", Linkname: "/etc"},
		tar.Header{Typeflag: tar.TypeReg, Name: "rootfs/f", Size: 3, Mode: 0o644}, tar.Header{Typeflag: tar.TypeLink, Name: "rootfs/l", Linkname: "rootfs/f"}))
	f.Add(archive(tar.Header{Typeflag: tar.TypeReg, Name: "../x", Size: 3}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "a", "b")
		must(t, os.MkdirAll(dir, 0o700))
		Unpack(bytes.NewReader(data), dir, Size{Entries: 100, Bytes: 1 << 20})
		for _, place := range []string{outer, filepath.Join(outer, "a")} {
			if entries, _ := os.ReadDir(place); len(entries) != 1 {
				t.Errorf("%s has %v", place, entries)
			}
		}
	})
}
