package gofer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
)

const firstMappedID = 100000

// mapped are the mappings of a container whose IDs are not the host's.
var mapped = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstMappedID, Size: 65536}}

// mappedTree is a tree that belongs to the mapped IDs, below a directory that
// only the host's root may enter.
func mappedTree(t *testing.T) string {
	t.Helper()
	base := tree(t, map[string]string{"rootfs/root": "", "rootfs/user": "", "rootfs/host": "host"})
	dir := filepath.Join(base, "rootfs")
	for path, owner := range map[string]int{dir: 0, filepath.Join(dir, "root"): 0, filepath.Join(dir, "user"): 42} {
		if err := os.Chown(path, firstMappedID+owner, firstMappedID+owner); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkMapped checks that the gofer sees owners as the container does.
func checkMapped(t *testing.T, p *Process, dir string) {
	t.Helper()
	client, root := dial(t, p, 0)
	for name, want := range map[string]uint32{"root": 0, "user": 42, "host": 65534} {
		file := walk(t, client, root, name)
		var stat lisafs.Statx
		if err := file.StatTo(background, &stat); err != nil || stat.UID != want || stat.GID != want {
			t.Errorf("owner of %s is %d:%d, %v, want %d", name, stat.UID, stat.GID, err, want)
		}
	}
	if _, err := root.MkdirAt(background, "new", 0o755, 7, 8); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &st); err != nil || st.Uid != firstMappedID+7 || st.Gid != firstMappedID+8 {
		t.Errorf("owner of a new directory is %d:%d on the host, %v", st.Uid, st.Gid, err)
	}
	// Capabilities end at the mapped IDs.
	host := walk(t, client, root, "host")
	if _, _, err := host.OpenAt(background, unix.O_RDWR); !errors.Is(err, unix.EACCES) {
		t.Errorf("write to a file of the host's root: %v, want EACCES", err)
	}
}

func TestIDMappings(t *testing.T) {
	dir := mappedTree(t)
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir}}, UIDMappings: mapped, GIDMappings: mapped})
	checkMapped(t, p, dir)
	for _, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile(procPath(p, name))
		if got := strings.Join(strings.Fields(string(text)), " "); err != nil || got != "0 100000 65536" {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
}

func TestUserNamespacePath(t *testing.T) {
	owner := exec.Command("sleep", "600")
	ids := []syscall.SysProcIDMap{{HostID: firstMappedID, Size: 65536}}
	owner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		owner.Process.Kill()
		owner.Wait()
	}()
	path := filepath.Join("/proc", strconv.Itoa(owner.Process.Pid), "ns/user")

	dir := mappedTree(t)
	checkMapped(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}, UserNamespacePath: path}), dir)

	// A namespace may also be a file that it is bound to.
	bound := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(bound, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(path, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(bound, unix.MNT_DETACH)
	dir = mappedTree(t)
	checkMapped(t, startGofer(t, Config{Mounts: []Mount{{Source: dir}}, UserNamespacePath: bound}), dir)
}

func TestBadIDMappings(t *testing.T) {
	mounts := []Mount{{Source: "/"}}
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"no root":        {Config{UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 5, Size: 1}}, GIDMappings: mapped}, "ID 0"},
		"empty range":    {Config{UIDMappings: mapped, GIDMappings: []specs.LinuxIDMapping{{}}}, "size 0"},
		"users only":     {Config{UIDMappings: mapped}, "group ID mappings"},
		"groups only":    {Config{GIDMappings: mapped}, "user ID mappings"},
		"too many":       {Config{UIDMappings: make([]specs.LinuxIDMapping, maxIDMappings+1), GIDMappings: mapped}, "341 lines"},
		"no namespace":   {Config{UserNamespacePath: "/proc/self/ns/nothing"}, "no such file"},
		"not one at all": {Config{UserNamespacePath: "/dev/null"}, "no process is in it"},
	} {
		test.cfg.Mounts = mounts
		if _, err := Start(t.Context(), test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func FuzzParseIDMap(f *testing.F) {
	f.Add("         0     100000      65536\n")
	f.Add("0 0 4294967295\n1 2 3\n")
	f.Add("0 -1 5")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		mappings, err := parseIDMap(strings.NewReader(text))
		if err == nil && len(mappings) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mappings from %q", len(mappings), text)
		}
	})
}
