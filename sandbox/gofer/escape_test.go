package gofer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

// hostTree is a served directory beside a secret, with links that lead to it.
// It returns the directory and the secret's path.
func hostTree(t *testing.T) (dir, secret string) {
	t.Helper()
	base := tree(t, map[string]string{"secret/key": "secret", "rootfs/inside/file": "inside", "rootfs/d/": ""})
	dir, secret = filepath.Join(base, "rootfs"), filepath.Join(base, "secret/key")
	for name, target := range map[string]string{
		"absolute":   secret,
		"up":         "../secret/key",
		"upDir":      "../secret",
		"root":       "/",
		"procRoot":   "/proc/self/root",
		"procFD":     "/proc/self/fd/3",
		"insideLink": "inside",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, secret
}

func TestSymlinksAreNotFollowed(t *testing.T) {
	dir, secret := hostTree(t)
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)

	for _, name := range []string{"absolute", "up", "upDir", "root", "procRoot", "procFD", "insideLink"} {
		link := walk(t, client, root, name)
		if fd, _, err := link.OpenAt(background, unix.O_RDONLY); err == nil {
			t.Errorf("%s: the link could be opened", name)
			client.CloseFD(background, fd, true)
		}
		if _, err := link.Walk(background, "etc"); err == nil {
			t.Errorf("%s: walked through the link", name)
		}
		for _, below := range []string{"etc", "key", "file", "0", "d"} {
			status, inodes, err := root.WalkMultiple(background, []string{name, below})
			if err == nil && (status != lisafs.WalkComponentSymlink || len(inodes) != 1) {
				t.Errorf("%s/%s: walked %d components, status %d", name, below, len(inodes), status)
			}
			if stats, err := root.WalkStat(background, []string{name, below}); err == nil && len(stats) > 1 {
				t.Errorf("%s/%s: got %d stats", name, below, len(stats))
			}
		}
	}
	// What the guest sees of a link is its text, which it resolves itself.
	link := walk(t, client, root, "absolute")
	if target, err := link.ReadLinkAt(background); err != nil || target != secret {
		t.Errorf("link text is %q, %v", target, err)
	}
}

func TestNamesCannotLeave(t *testing.T) {
	dir, _ := hostTree(t)
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)
	inside := walk(t, client, root, "inside")
	file := walk(t, client, inside, "file")

	for _, name := range []string{"..", ".", "../secret", "../../etc/passwd", "/etc/passwd", "d/../../secret", "inside/file", "..\x00"} {
		for what, attempt := range map[string]func() error{
			"walk": func() error { _, err := root.Walk(background, name); return err },
			"create": func() error {
				_, _, _, err := root.OpenCreateAt(background, name, unix.O_RDWR, 0o644, 0, 0)
				return err
			},
			"mkdir":   func() error { _, err := root.MkdirAt(background, name, 0o755, 0, 0); return err },
			"symlink": func() error { _, err := root.SymlinkAt(background, name, "/", 0, 0); return err },
			"link":    func() error { _, err := root.LinkAt(background, file.ID(), name); return err },
			"unlink":  func() error { return root.UnlinkAt(background, name, 0) },
			"rmdir":   func() error { return root.UnlinkAt(background, name, unix.AT_REMOVEDIR) },
			"rename":  func() error { return inside.RenameAt(background, "file", root.ID(), name, 0) },
		} {
			if err := attempt(); err == nil {
				t.Errorf("%s %q was answered", what, name)
			}
		}
		if stats, err := root.WalkStat(background, []string{name}); err == nil && len(stats) > 0 {
			t.Errorf("stat %q was answered", name)
		}
	}
	if got := read(t, client, file); got != "inside" {
		t.Errorf("the file inside reads %q", got)
	}
}

func TestCreatingDoesNotFollowLinks(t *testing.T) {
	dir, secret := hostTree(t)
	planned := filepath.Join(filepath.Dir(secret), "planted")
	if err := os.Symlink(planned, filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	_, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)
	if _, _, _, err := root.OpenCreateAt(background, "dangling", unix.O_RDWR, 0o644, 0, 0); !errors.Is(err, unix.EEXIST) {
		t.Errorf("create over a link: %v, want EEXIST", err)
	}
	if _, err := os.Lstat(planned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was created outside: %v", err)
	}
}

// A directory that is exchanged for a link while the server holds what is below
// it: what the server does by path then meets the link, and the host does not
// follow it even to where the gofer may go.
func TestExchangedDirectoryIsNotFollowed(t *testing.T) {
	dir := tree(t, map[string]string{"inside/sub/file": "inside", "other/sub/file": "other", "d/": ""})
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)
	file := walk(t, client, root, "inside", "sub", "file")
	d := walk(t, client, root, "d")

	if err := os.Rename(filepath.Join(dir, "inside"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("other", filepath.Join(dir, "inside")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LinkAt(background, file.ID(), "stolen"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("link through an exchanged directory: %v, want ELOOP", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "d/stolen")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link appeared: %v", err)
	}
}

func TestSpecialFilesStayClosed(t *testing.T) {
	dir := tree(t, map[string]string{"d/": ""})
	if err := unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o666, 0); err != nil {
		t.Fatal(err)
	}
	client, root := dial(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}}), 0)
	for _, name := range []string{"zero", "fifo", "socket"} {
		special := walk(t, client, root, name)
		if _, _, err := special.OpenAt(background, unix.O_RDWR|unix.O_NONBLOCK); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	socket := walk(t, client, root, "socket")
	if _, err := socket.Connect(background, unix.SOCK_STREAM, 0, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("connect to the host's socket: %v, want EPERM", err)
	}
	if _, err := root.MknodAt(background, "new", unix.S_IFCHR|0o666, 0, 0, 5, 1); err == nil {
		t.Error("a device was made")
	}
	for _, source := range []string{"/dev/null", filepath.Join(dir, "zero")} {
		p, err := Start(t.Context(), Config{Mounts: []Mount{{Source: source}}})
		if err == nil {
			p.Kill()
			p.Wait()
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "device") {
			t.Errorf("start with the device %s as source: %v", source, err)
		}
	}
}
