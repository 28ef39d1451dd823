package gofer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// writes are all the ways to change something below root, which has a file
// "file" and directories "d" and "full" with a file in it.
func writes(t *testing.T, client *lisafs.Client, root lisafs.ClientFD) map[string]func() error {
	file := walk(t, client, root, "file")
	setstat := func(stat linux.Statx) error {
		if _, failed, err := file.SetStat(background, &stat); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		return nil
	}
	return map[string]func() error{
		"open for writing": func() error {
			open, donated, err := file.OpenAt(background, unix.O_RDWR)
			if err != nil {
				return err
			}
			if donated >= 0 {
				unix.Close(donated)
			}
			openFD := client.NewFD(open)
			_, err = openFD.Write(background, []byte("CHANGED"), 0)
			return errors.Join(err, openFD.Allocate(background, 0, 0, 100), openFD.Sync(background))
		},
		"create": func() error {
			_, _, donated, err := root.OpenCreateAt(background, "new", unix.O_RDWR, 0o666, 7, 8)
			if err == nil && donated >= 0 {
				unix.Close(donated)
			}
			return err
		},
		"mkdir":   func() error { _, err := root.MkdirAt(background, "newDir", 0o777, 7, 8); return err },
		"mknod":   func() error { _, err := root.MknodAt(background, "node", unix.S_IFREG|0o644, 7, 8, 0, 0); return err },
		"symlink": func() error { _, err := root.SymlinkAt(background, "newLink", "target", 7, 8); return err },
		"link":    func() error { _, err := root.LinkAt(background, file.ID(), "hard"); return err },
		"unlink":  func() error { full := walk(t, client, root, "full"); return full.UnlinkAt(background, "gone", 0) },
		"rmdir":   func() error { return root.UnlinkAt(background, "d", unix.AT_REMOVEDIR) },
		"rename": func() error {
			full := walk(t, client, root, "full")
			return full.RenameAt(background, "old", root.ID(), "renamed", 0)
		},
		"chmod":    func() error { return setstat(linux.Statx{Mask: linux.STATX_MODE, Mode: 0o640}) },
		"chown":    func() error { return setstat(linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID, UID: 7, GID: 8}) },
		"truncate": func() error { return setstat(linux.Statx{Mask: linux.STATX_SIZE, Size: 3}) },
		"utimes": func() error {
			return setstat(linux.Statx{Mask: linux.STATX_MTIME, Mtime: linux.StatxTimestamp{Sec: 1}})
		},
		"set xattr":    func() error { return file.SetXattr(background, "user.new", "value", 0) },
		"remove xattr": func() error { return file.RemoveXattr(background, "user.old") },
	}
}

// writableTree is what writes needs.
func writableTree(t *testing.T) string {
	t.Helper()
	dir := tree(t, map[string]string{"file": "content", "d/": "", "full/gone": "", "full/old": "old"})
	if err := unix.Setxattr(filepath.Join(dir, "file"), "user.old", []byte("value"), 0); err != nil {
		t.Fatalf("the temporary directory's filesystem takes no extended attribute: %v", err)
	}
	return dir
}

// The privileges that are left suffice for everything that a guest may do.
func TestWritableMount(t *testing.T) {
	dir := writableTree(t)
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)
	for name, write := range writes(t, client, root) {
		if err := write(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFREG|0o666 || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("created with mode %#o, owner %d:%d, want 0666 whatever the mask, and 7:8", st.Mode, st.Uid, st.Gid)
	}
	if _, err := os.Stat(filepath.Join(dir, "renamed")); err != nil {
		t.Error(err)
	}
}

func TestReadOnlyMount(t *testing.T) {
	dir, other := writableTree(t), writableTree(t)
	// The second mount is writable, so the process has the capabilities to write.
	for name, mounts := range map[string][]Mount{
		"beside a writable one": {{Source: dir, ReadOnly: true}, {Source: other}},
		"alone":                 {{Source: dir, ReadOnly: true}},
	} {
		t.Run(name, func(t *testing.T) {
			client, root := dial(t, startGofer(t, Config{Mounts: mounts}), 0)
			for name, write := range writes(t, client, root) {
				if err := write(); !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: %v, want EROFS", name, err)
				}
			}
			// The server itself refuses, before it says that devices cannot be made.
			if _, err := root.MknodAt(background, "device", unix.S_IFCHR|0o644, 0, 0, 5, 1); !errors.Is(err, unix.EROFS) {
				t.Errorf("make a device: %v, want EROFS", err)
			}
			if got := read(t, client, walk(t, client, root, "file")); got != "content" {
				t.Errorf("the file reads %q", got)
			}
		})
	}
}

func TestReadOnlyFile(t *testing.T) {
	path := filepath.Join(writableTree(t), "file")
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: path, ReadOnly: true}}}), 0)
	if _, _, err := root.OpenAt(background, unix.O_RDWR); !errors.Is(err, unix.EROFS) {
		t.Errorf("open for writing: %v, want EROFS", err)
	}
	if got := read(t, client, root); got != "content" {
		t.Errorf("the file reads %q", got)
	}
}

// mountShared mounts an empty filesystem whose mount events others receive.
func mountShared(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("shared", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

// The host refuses writes even to who is not asked by the server, on mounts
// below the served one too.
func TestHostEnforcesReadOnly(t *testing.T) {
	dir := tree(t, map[string]string{"sub/": ""})
	sub := filepath.Join(dir, "sub")
	mountShared(t, sub)
	if err := os.WriteFile(filepath.Join(sub, "mounted"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir, ReadOnly: true, Recursive: true}, {Source: dir}}})

	root := procPath(p, "root")
	for _, name := range []string{"0/new", "0/sub/new", "new"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("write %s in the gofer's root: %v, want EROFS", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "0/sub/mounted")); err != nil {
		t.Errorf("recursive: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "1/sub/mounted")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not recursive: %v, want no such file", err)
	}
	if err := os.WriteFile(filepath.Join(root, "1/new"), nil, 0o644); err != nil {
		t.Errorf("write to the writable one: %v", err)
	}
}

func TestDirectFS(t *testing.T) {
	dir := writableTree(t)
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir, ReadOnly: true, DirectFS: true}, {Source: dir}}})
	_, _, donated := dialDonated(t, p, 0)
	if donated < 0 {
		t.Fatal("no descriptor was given")
	}
	defer unix.Close(donated)
	if fd, err := unix.Openat(donated, "file", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Errorf("open below the descriptor: %v", err)
	} else {
		unix.Close(fd)
	}
	if _, err := unix.Openat(donated, "file", unix.O_RDWR|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("open for writing below the descriptor: %v, want EROFS", err)
	}
	// What is above is the gofer's root, not the host's.
	up, err := unix.Openat(donated, "../../..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	above := os.NewFile(uintptr(up), "above")
	defer above.Close()
	if names, err := above.Readdirnames(0); err != nil || len(names) != 2 {
		t.Errorf("above the mount there is %q, %v", names, err)
	}
	// The other one is off, as by default.
	dial(t, p, 1)
}
