package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountNamespace gives the test a mount namespace of its own. The thread is
// not used again.
func inMountNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		t.Fatalf("unshare mount namespace (needs root): %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
}

func TestBindAndUndo(t *testing.T) {
	inMountNamespace(t)
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", source, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	defer Unmount(source)
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("source", link); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	var binds Binds
	if err := binds.Bind(link, filepath.Join(tree, "a/b"), BindOptions{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if err := binds.Bind(filepath.Join(source, "file"), filepath.Join(tree, "deep/file"), BindOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(tree, "a/b/new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write through a read-only bind: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Join(tree, "a/b"), &st); err != nil || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NODEV == 0 {
		t.Errorf("flags %#x, %v: nosuid and nodev of the source are gone", st.Flags, err)
	}
	if err := os.WriteFile(filepath.Join(tree, "deep/file"), []byte("changed"), 0o644); err != nil {
		t.Errorf("write through a writable bind: %v", err)
	}

	if err := binds.Undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(tree); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after undo the created tree is still there: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(source, "file")); err != nil || string(got) != "changed" {
		t.Errorf("source has %q, %v", got, err)
	}
}

func TestBindFailureLeavesNothing(t *testing.T) {
	inMountNamespace(t)
	dir := t.TempDir()
	var binds Binds
	for name, source := range map[string]string{"missing": filepath.Join(dir, "gone"), "system": "/proc", "device": "/dev/null"} {
		if err := binds.Bind(source, filepath.Join(dir, "a/b"), BindOptions{}); AsErrors(err) == nil {
			t.Errorf("%s: got %v, want an error with a code", name, err)
		}
	}
	// The second step fails: what the first one created goes too.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := binds.Bind(file, filepath.Join(dir, "file/below"), BindOptions{}); err == nil {
		t.Error("bind below a file succeeds")
	}
	if err := binds.Bind(file, dir, BindOptions{}); err == nil {
		t.Error("bind a file on a directory succeeds")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if len(binds.undo) != 0 {
		t.Errorf("%d steps left to undo", len(binds.undo))
	}
}

const sampleTable = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /mnt/with\040space\134and\011tab rw,relatime - nfs4 server:/exp\040ort rw,vers=4.2
31 22 254:0 /sub /srv ro,nosuid - ext4 /dev/root rw
32 22 0:40 / /srv rw - tmpfs none rw
33 22 0:41 net:[4026531840] /run/netns/x rw - nsfs nsfs rw
`

func TestParseTable(t *testing.T) {
	table, err := ParseTable(strings.NewReader(sampleTable))
	if err != nil {
		t.Fatal(err)
	}
	if got := table[1]; got.MountPoint != "/mnt/with space\\and\ttab" || got.Source != "server:/exp ort" || got.FSType != "nfs4" {
		t.Errorf("escaped entry is %+v", got)
	}
	for _, test := range []struct {
		id   int
		path string
		want int // ID
	}{
		{0, "/", 22},
		{0, "/srv", 32}, // the later mount hides the earlier one
		{31, "/srv", 31},
		{0, "/srvx", 22},
		{0, "/mnt/with space\\and\ttab/x", 30},
	} {
		if got, ok := table.holding(test.id, test.path); !ok || got.ID != test.want {
			t.Errorf("mount %d, path %q: held by %+v, want %d", test.id, test.path, got, test.want)
		}
	}
	for _, damaged := range []string{"22 1 254:0 / /", "22 1 254 / / rw - ext4 /dev/root rw", "22 1 254:0 / / rw shared:1 ext4 /dev/root rw rw"} {
		if _, err := ParseTable(strings.NewReader(damaged)); err == nil {
			t.Errorf("%q parses", damaged)
		}
	}
}

func TestFacts(t *testing.T) {
	inMountNamespace(t)
	dir := filepath.Join(t.TempDir(), "with space")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("my device", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer Unmount(dir)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	// The test's thread has the namespace, not the process.
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := ParseTable(f)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := table.Facts(link)
	if err != nil {
		t.Fatal(err)
	}
	if facts.MountPoint != dir || facts.Path != dir || facts.FSType != "tmpfs" || facts.Device != "my device" || facts.CanFollow || facts.System {
		t.Errorf("facts of a tmpfs: %+v", facts)
	}
	for _, system := range []string{"/proc/self", "/sys", "/dev/null", "/dev"} {
		if facts, err := table.Facts(system); err != nil || !facts.System {
			t.Errorf("%s: %+v, %v; want it to be of the system", system, facts, err)
		}
	}
	if _, err := table.Facts(filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("facts of nothing: %v", err)
	}
	if _, err := Facts("/"); err != nil {
		t.Errorf("facts of the root: %v", err)
	}
}

func TestMapperName(t *testing.T) {
	devices := t.TempDir()
	if err := os.MkdirAll(filepath.Join(devices, "253:7/dm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(devices, "253:7/dm/name"), []byte("vg-data\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := mapperName(devices, 253, 7); got != "vg-data" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := mapperName(devices, 8, 1); got != "" || err != nil {
		t.Errorf("a plain disk: got %q, %v", got, err)
	}
}
