package gofer

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// procPath is a path below the gofer's directory in procfs.
func procPath(p *Process, name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.PID), name)
}

// statuses returns the status of every thread of the gofer.
func statuses(t *testing.T, p *Process) map[string]map[string]string {
	t.Helper()
	files, err := filepath.Glob(procPath(p, "task/*/status"))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of the gofer: %q, %v", files, err)
	}
	all := make(map[string]map[string]string)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue // the thread has ended
		}
		all[name] = make(map[string]string)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ":")
			all[name][key] = strings.TrimSpace(value)
		}
		f.Close()
	}
	return all
}

func TestPrivileges(t *testing.T) {
	dir := tree(t, map[string]string{"file": ""})
	for _, test := range []struct {
		name  string
		mount Mount
		ids   bool
		want  uint64
	}{
		{name: "writable", mount: Mount{Source: dir}, want: readCapabilities | writeCapabilities},
		{name: "read-only", mount: Mount{Source: dir, ReadOnly: true}, want: readCapabilities},
		{name: "in a user namespace", mount: Mount{Source: dir, ReadOnly: true}, ids: true, want: readCapabilities},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Config{Mounts: []Mount{test.mount}}
			if test.ids {
				cfg.UIDMappings, cfg.GIDMappings = mapped, mapped
			}
			p := startGofer(t, cfg)
			caps := fmt.Sprintf("%016x", test.want)
			want := map[string]string{
				"CapInh": "0000000000000000", "CapPrm": caps, "CapEff": caps, "CapBnd": caps, "CapAmb": "0000000000000000",
				"NoNewPrivs": "1", "Seccomp": "2", "Groups": "",
			}
			for thread, status := range statuses(t, p) {
				for key, value := range want {
					if status[key] != value {
						t.Errorf("%s: %s is %q, want %q", thread, key, status[key], value)
					}
				}
			}
		})
	}
}

func TestNamespacesAreNew(t *testing.T) {
	p := startGofer(t, Config{Mounts: []Mount{{Source: t.TempDir()}}, UIDMappings: mapped, GIDMappings: mapped})
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup", "user"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(procPath(p, "ns/"+ns)); err != nil || got == own {
			t.Errorf("namespace %s is %q, %v, and ours %q", ns, got, err, own)
		}
	}
	routes, err := os.ReadFile(procPath(p, "net/dev"))
	if err != nil || strings.Count(string(routes), ":") != 1 {
		t.Errorf("more than loopback in the gofer's network: %v\n%s", err, routes)
	}
}

func TestTreeHasServedMountsOnly(t *testing.T) {
	dir := t.TempDir()
	mountShared(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir, ReadOnly: true}, {Source: dir}, {Source: filepath.Join(dir, "file")}}})

	entries, err := os.ReadDir(procPath(p, "root"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, []string{"0", "1", "2"}) {
		t.Errorf("the gofer's root has %q", names)
	}

	table, err := os.ReadFile(procPath(p, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		got[fields[4]] = fields[5]
		if fields[6] != "-" {
			t.Errorf("the mount %s is not private: %s", fields[4], fields[6])
		}
	}
	for path, want := range map[string][]string{
		"/":  {"ro", "nosuid", "nodev", "noexec"},
		"/0": {"ro", "nosuid", "nodev", "nosymfollow"},
		"/1": {"rw", "nosuid", "nodev", "nosymfollow"},
		"/2": {"rw", "nosuid", "nodev", "nosymfollow"},
	} {
		options := strings.Split(got[path], ",")
		for _, option := range want {
			if !slices.Contains(options, option) {
				t.Errorf("the mount %s has options %q, without %s", path, got[path], option)
			}
		}
	}
	if len(got) != 4 {
		t.Errorf("the gofer's mount namespace has %d mounts:\n%s", len(got), table)
	}
}

// allowedDescriptor matches what /proc shows for each descriptor that a gofer
// may have besides its sockets and its log.
var allowedDescriptor = regexp.MustCompile(`^(/dev/null|/memfd:.*|anon_inode:\[eventpoll\]|anon_inode:\[eventfd\]|/)( \(deleted\))?$`)

func TestDescriptors(t *testing.T) {
	// What the caller has inherited without close-on-exec must not go further.
	leaked, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	leakedSockets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leakedSockets[0])
	defer unix.Close(leakedSockets[1])
	logFile, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	p := startGofer(t, Config{Mounts: []Mount{{Source: t.TempDir()}, {Source: t.TempDir()}}, LogFile: logFile})

	entries, err := os.ReadDir(procPath(p, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	sockets, tables := 0, 0
	for _, entry := range entries {
		path := procPath(p, "fd/"+entry.Name())
		link, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(link, "socket:"):
			sockets++
		case link == logFile.Name() && entry.Name() == "2":
		case link == "/":
			tables++
			checkDescriptorTable(t, path)
		case !allowedDescriptor.MatchString(link):
			t.Errorf("descriptor %s is %s", entry.Name(), link)
		}
	}
	if sockets != 2 || tables != 1 {
		t.Errorf("%d sockets and %d descriptor tables, want 2 and 1", sockets, tables)
	}
}

// checkDescriptorTable checks that the directory is a procfs one from which
// ".." leads nowhere.
func checkDescriptorTable(t *testing.T, path string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		t.Errorf("%s is not in procfs: type %#x, %v", path, fs.Type, err)
	}
	var at, above unix.Stat_t
	if err := unix.Stat(path+"/.", &at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(path+"/../..", &above); err != nil {
		t.Fatal(err)
	}
	if at.Ino != above.Ino || at.Dev != above.Dev {
		t.Error(`".." leads out of the descriptor table`)
	}
}
