package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// hostSecret is in a file of the host that no guest may read.
const hostSecret = "the host's own secret"

// A prison is a sandbox whose guest tries to get out.
type prison struct {
	*host
	root     string // the guest's rootfs, on the host
	readOnly string // bound read-only on /ro
	writable string // bound on /mnt
	secret   string // a file of the host, outside of all of them
}

// newPrison starts a sandbox with an ordinary container's capabilities, and those given on top of them.
func newPrison(t *testing.T, more ...string) *prison {
	t.Helper()
	h := newHost(t)
	p := &prison{host: h, root: h.path("rootfs"), readOnly: h.directory("read-only"), writable: h.directory("writable")}
	if err := guest.WriteBusyboxRoot(p.root); err != nil {
		t.Fatal(err)
	}
	p.secret = h.file("secret", hostSecret)
	for _, name := range []string{"file", "dir/below"} {
		name = filepath.Join(p.readOnly, name)
		os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.WriteFile(name, []byte("as it was"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// Links that lead out: absolute, and by more .. than there are directories.
	up := strings.Repeat("../", 20)
	for link, target := range map[string]string{
		filepath.Join(p.root, "absolute"):     p.secret,
		filepath.Join(p.root, "relative"):     up + p.secret[1:],
		filepath.Join(p.writable, "absolute"): p.secret,
		filepath.Join(p.writable, "relative"): up + p.secret[1:],
		filepath.Join(p.writable, "up"):       "..",
		filepath.Join(p.root, "up"):           up,
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	h.run("prison", h.bundle("prison", guest.Bundle{
		Args: []string{"/bin/sleep", "1000"}, Root: p.root, Writable: true,
		Mounts: []specs.Mount{guest.Bind(p.readOnly, "/ro", "ro"), guest.Bind(p.writable, "/mnt", "rw")},
		Edit: func(spec *specs.Spec) {
			c := spec.Process.Capabilities
			c.Bounding = append(c.Bounding, more...)
			c.Effective = append(c.Effective, more...)
			c.Permitted = append(c.Permitted, more...)
		},
	}))
	return p
}

// attempt runs a shell command inside and returns what it showed, stderr included.
func (p *prison) attempt(command string) result {
	p.t.Helper()
	return p.try("exec", "prison", "/bin/sh", "-c", command)
}

// A guest finds no way to the host's files by names.
func TestGuestCannotNameHostFiles(t *testing.T) {
	p := newPrison(t)
	// The negative control: from outside, every link does lead to the secret.
	for _, link := range []string{filepath.Join(p.root, "absolute"), filepath.Join(p.writable, "relative")} {
		if content, err := os.ReadFile(link); err != nil || string(content) != hostSecret {
			t.Fatalf("the link %s leads nowhere on the host, so that the test proves nothing: %q, %v", link, content, err)
		}
	}
	up := strings.Repeat("/..", 20)
	for _, name := range []string{
		p.secret,
		"/absolute", "/relative", "/mnt/absolute", "/mnt/relative",
		"/up" + p.secret, "/mnt/up" + p.secret, "/mnt/.." + up + p.secret, "/ro/dir" + up + p.secret, up + p.secret,
		"/mnt/up/up/" + filepath.Base(p.secret), "/mnt/../" + filepath.Base(p.secret), "/ro/../" + filepath.Base(p.secret),
		"/proc/1/root" + p.secret, "/proc/self/root" + p.secret, "/proc/1/cwd" + p.secret, "/proc/1/root/.." + up + p.secret,
		"/proc/self/fd/0/.." + p.secret, "/dev/fd/../../" + p.secret[1:],
	} {
		if r := p.attempt("cat " + name); r.code == 0 || strings.Contains(r.stdout, hostSecret) {
			t.Errorf("cat %s: %v", name, r)
		}
	}
	// By every descriptor of every process that the guest sees.
	r := p.attempt(`for d in /proc/[0-9]*/fd/*; do cat $d` + p.secret + ` $d/../secret $d/../../secret; done`)
	if strings.Contains(r.stdout, hostSecret) {
		t.Errorf("a descriptor leads out: %v", r)
	}
	// A root that a guest may change, it may change for itself only.
	if r := p.attempt("mkdir -p /mnt/jail && cd / && chroot /mnt/jail /bin/true; chroot /mnt/up /bin/cat " + p.secret); strings.Contains(r.stdout, hostSecret) {
		t.Errorf("chroot leads out: %v", r)
	}
}

// A guest sees its own processes and nobody else's, and cannot stop or look into what runs it.
func TestGuestCannotReachHostProcesses(t *testing.T) {
	p := newPrison(t, "CAP_SYS_PTRACE", "CAP_SYS_ADMIN")
	seen := lines(p.exec("prison", "/bin/sh", "-c", "cat /proc/[0-9]*/comm"))
	for _, name := range seen {
		if name != "sleep" && name != "sh" && name != "cat" {
			t.Errorf("the guest sees the process %q: %q", name, seen)
		}
	}
	for _, process := range binaryProcesses() {
		for _, command := range []string{"kill -0 %d", "cat /proc/%d/status", "cat /proc/%d/environ"} {
			if process.pid < 100 {
				continue // could be a process of the guest's own
			}
			command = fmt.Sprintf(command, process.pid)
			if r := p.attempt(command); r.code == 0 {
				t.Errorf("the guest reaches process %d of the host: %v", process.pid, r)
			}
		}
	}
	own := p.exec("prison", "/bin/hostname")
	if hostname, _ := os.Hostname(); strings.TrimSpace(own) == hostname {
		t.Errorf("the guest sees the host's name %q", hostname)
	}
}

// Mounting gives a guest nothing of the host, even with every capability.
func TestGuestCannotMountHost(t *testing.T) {
	all := []string{"CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH", "CAP_SYS_BOOT", "CAP_SYS_TIME"}
	for name, p := range map[string]*prison{"ordinary": newPrison(t), "all capabilities": newPrison(t, all...)} {
		t.Run(name, func(t *testing.T) {
			p.host = p.host.as(t)
			for _, command := range []string{
				"mount -t 9p -o trans=fd,rfdno=3,wfdno=3,aname=/ none /tmp && cat /tmp" + p.secret,
				"mount -t ext4 /dev/vda /tmp && cat /tmp" + p.secret,
				"mount -o bind /mnt/up /tmp && cat /tmp" + p.secret,
				"mount -o bind /mnt/absolute /etc/motd && cat /etc/motd",
				`mknod /tmp/disk b 254 0 && test -n "$(head -c 512 /tmp/disk)"`,
				`mknod /tmp/disk b 8 0 && test -n "$(head -c 512 /tmp/disk)"`,
				`mknod /tmp/mem c 1 1 && test -n "$(head -c 512 /tmp/mem)"`,
				"insmod /etc/motd",
				`mount -t devtmpfs none /tmp && test -n "$(head -c 512 /tmp/vda)"`,
				`mknod /mnt/disk b 254 0 && test -n "$(head -c 512 /mnt/disk)"`,
				"umount -l / && cat " + p.secret,
			} {
				if r := p.attempt(command); r.code == 0 || strings.Contains(r.stdout, hostSecret) {
					t.Errorf("%s: %v", command, r)
				}
				p.attempt("umount /tmp; rm -f /tmp/disk /tmp/mem")
			}
			for _, name := range []string{"disk", "mem"} {
				if info, err := os.Lstat(filepath.Join(p.writable, name)); err == nil && info.Mode()&os.ModeDevice != 0 {
					t.Errorf("the guest made the device %s on the host", name)
				}
			}
			// The host's time and kernel are not the guest's to change.
			p.attempt("date -s 2001-01-01; echo b >/proc/sysrq-trigger; echo pwned >/proc/sys/kernel/core_pattern; reboot -f")
			if pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); strings.Contains(string(pattern), "pwned") {
				t.Error("the guest changed the host's core_pattern")
			}
		})
	}
}

// Nothing is written through a read-only bind mount, not even by a guest that may mount.
func TestGuestCannotWriteThroughReadOnlyBind(t *testing.T) {
	p := newPrison(t, "CAP_SYS_ADMIN")
	before := listing(t, p.readOnly)
	for _, command := range []string{
		"echo pwned >/ro/file", "echo pwned >>/ro/file", "truncate -s 0 /ro/file", "echo pwned >/ro/new", "mkdir /ro/new",
		"rm /ro/file", "rm -r /ro/dir", "mv /ro/file /ro/moved", "mv /ro/file /mnt/moved", "ln /ro/file /ro/link", "ln -s x /ro/link",
		"mknod /ro/pipe p", "chmod 0777 /ro/dir", "chown 1000 /ro/file", "touch -d 2001-01-01 /ro/file",
		"echo pwned 1<>/ro/file", "mount -o remount,rw /ro && echo pwned >/ro/file", "mount -o bind /ro /tmp && mount -o remount,rw,bind /tmp && echo pwned >/tmp/file",
		"exec 3</ro/file && echo pwned >/proc/self/fd/3", "exec 3</ro/dir && echo pwned >/proc/self/fd/3/below",
		"cd /ro/dir && echo pwned >below", "ln /ro/file /mnt/link && echo pwned >/mnt/link",
	} {
		if r := p.attempt(command); r.code == 0 {
			t.Errorf("%s: %v", command, r)
		}
		p.attempt("umount /tmp")
	}
	if after := listing(t, p.readOnly); after != before {
		t.Errorf("the host's files changed from\n%s\nto\n%s", before, after)
	}
	// The negative control: next to it, writing works and arrives.
	p.exec("prison", "/bin/sh", "-c", "echo allowed >/mnt/new")
	if content, err := os.ReadFile(filepath.Join(p.writable, "new")); err != nil || string(content) != "allowed\n" {
		t.Errorf("writing to the writable bind mount does not arrive: %q, %v", content, err)
	}
}

// listing describes everything below a directory: names, modes, owners, times, contents.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			content, err = os.ReadFile(name)
		}
		fmt.Fprintf(&text, "%s %v %v %d %q\n", name, info.Mode(), info.ModTime(), info.Size(), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// A read-only root is read-only, whatever the guest is allowed.
func TestGuestCannotWriteReadOnlyRoot(t *testing.T) {
	h := newHost(t)
	root := h.path("rootfs")
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	h.run("prison", h.bundle("prison", guest.Bundle{Args: []string{"/bin/sleep", "1000"}, Root: root}))
	before := listing(t, root)
	for _, command := range []string{"echo pwned >/etc/motd", "echo pwned >/new", "rm /etc/motd", "mkdir /new", "chmod 0 /etc"} {
		if r := h.try("exec", "prison", "/bin/sh", "-c", command); r.code == 0 {
			t.Errorf("%s: %v", command, r)
		}
	}
	if after := listing(t, root); after != before {
		t.Errorf("the rootfs changed from\n%s\nto\n%s", before, after)
	}
}
