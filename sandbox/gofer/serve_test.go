package gofer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

func dupFD(f *os.File) (int, error) {
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// read opens the file and reads its first bytes.
func read(t testing.TB, client *lisafs.Client, fd lisafs.ClientFD) string {
	t.Helper()
	open, donated, err := fd.OpenAt(background, unix.O_RDONLY)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if donated >= 0 {
		unix.Close(donated)
	}
	defer client.CloseFD(background, open, true)
	buf := make([]byte, 100)
	openFD := client.NewFD(open)
	n, err := openFD.Read(background, buf, 0)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(buf[:n])
}

func TestServesDirectoryAndFile(t *testing.T) {
	dir := tree(t, map[string]string{"etc/hello": "from the rootfs"})
	file := filepath.Join(tree(t, map[string]string{"resolv.conf": "from a file"}), "resolv.conf")
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir}, {Source: file}}})

	client, root := dial(t, p, 0)
	if got := read(t, client, walk(t, client, root, "etc", "hello")); got != "from the rootfs" {
		t.Errorf("read %q", got)
	}
	client, root = dial(t, p, 1)
	if got := read(t, client, root); got != "from a file" {
		t.Errorf("read %q", got)
	}
}
