package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// bundlesOf returns the bundles that were sent to a host.
func (h *peerHost) bundlesOf() []string {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.data(), "bundles", "*"))
	hidden, _ := filepath.Glob(filepath.Join(h.data(), "bundles", ".new-*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return append(names, hidden...)
}

// takingBundles makes a pair of hosts whose agents take bundles.
func takingBundles(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, a: &peerHost{host: newHost(t), name: "a"}, b: &peerHost{host: newHost(t), name: "b"}}
	p.a.flags, p.b.flags = []string{"--max-bundle", "268435456"}, []string{"--max-bundle", "268435456"}
	p.begin()
	return p
}

// A sandbox moves to a host that has nothing of it: its root filesystem, and what is bound from inside the bundle, go along.
func TestMigrateSendsBundle(t *testing.T) {
	p := takingBundles(t)
	dir := p.a.path("bundles", "web")
	root := filepath.Join(dir, "files")
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"files/etc/later": "nobody has read this yet", "conf/settings": "bound"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(root, "etc/later"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	c := startCounter(t, p.a.host, "web", guest.Bundle{Root: root, Writable: true, Edit: func(s *specs.Spec) {
		s.Root.Path = "files"
		s.Mounts = append(s.Mounts, guest.Bind("conf", "/srv", "ro"))
	}})
	p.a.exec("web", "/bin/sh", "-c", "echo written >/etc/own; rm /etc/motd; cat /srv/settings >/dev/null")
	listing := p.a.exec("web", "/bin/sh", "-c", "ls -lnR /bin /etc /srv | md5sum")
	checksum := c.checksum()

	p.a.mustMigrate("web", p.b, "--send-bundle", "--verify")
	p.a.must("delete", "web")
	if err := os.RemoveAll(dir); err != nil { // nothing of it is needed any more
		t.Fatal(err)
	}
	there := c.restored(p.b.host, "web")
	there.countsOn()
	if got := there.checksum(); got != checksum {
		t.Errorf("checksum %s, before %s", got, checksum)
	}
	for file, want := range map[string]string{"/etc/later": "nobody has read this yet", "/etc/own": "written\n", "/srv/settings": "bound"} {
		if got := p.b.exec("web", "/bin/cat", file); got != want {
			t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
	if got := p.b.exec("web", "/bin/sh", "-c", "ls -lnR /bin /etc /srv | md5sum"); got != listing {
		t.Errorf("listing %s, before %s", got, listing)
	}
	if got := p.b.bundlesOf(); len(got) != 1 {
		t.Errorf("bundles there: %v", got)
	}

	// Back again, where the bundle is gone, and from there its own is sent; it goes with the sandbox.
	p.b.mustMigrate("web", p.a, "--send-bundle")
	p.b.must("delete", "web")
	if got := p.b.bundlesOf(); len(got) > 0 {
		t.Errorf("deleted sandboxes left %v", got)
	}
	here := c.restored(p.a.host, "web")
	here.countsOn()
	if got := p.a.exec("web", "/bin/sh", "-c", "ls -lnR /bin /etc /srv | md5sum"); got != listing {
		t.Errorf("back again: listing %s, before %s", got, listing)
	}
	p.a.must("delete", "--force", "web")
	if got := p.a.bundlesOf(); len(got) > 0 {
		t.Errorf("deleted sandboxes left %v", got)
	}
}

// What cannot be sent as it is, or is not taken, is refused by name, and leaves nothing.
func TestMigrateSendsNoBundle(t *testing.T) {
	p := takingBundles(t)
	refuses := func(id, want string, flags ...string) {
		t.Helper()
		r := p.a.migrate(id, p.b, append(flags, "--send-bundle")...)
		if r.code == 0 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: want %q: %v", id, want, r)
		}
		if got := p.b.bundlesOf(); len(got) > 0 {
			t.Errorf("%s: it left %v", id, got)
		}
	}
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	sleep := guest.Bundle{Args: []string{"/bin/sleep", "1000"}, Root: root, Writable: true}
	p.a.mustLaunch("web", "run", "--detach", "--overlay", "none", "--bundle", p.a.bundle("web", sleep), "web")
	refuses("web", "is written to by the sandbox")
	p.a.must("delete", "--force", "web")

	sleep.Edit = func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true"}}} }
	p.a.run("hooked", p.a.bundle("hooked", sleep))
	refuses("hooked", "hooks are programs of the host")
	p.a.must("delete", "--force", "hooked")

	sleep.Edit = nil
	p.a.run("web", p.a.bundle("web", sleep))
	null := filepath.Join(root, "etc/null")
	if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	refuses("web", null+": it is a device (1:3)")
	if err := os.Remove(null); err != nil {
		t.Fatal(err)
	}
	refuses("web", "give one of them", "--bundle", "/somewhere")

	for _, flags := range [][]string{nil, {"--max-bundle", "1000"}} {
		p.b.stopAgent(syscall.SIGTERM)
		p.b.flags = flags
		p.b.startAgent()
		refuses("web", "--max-bundle")
	}

	// An agent that is killed in the middle leaves what the next one removes; the sandbox goes on, and then moves.
	f := newFailpoints(t)
	p.b.stopAgent(syscall.SIGTERM)
	p.b.flags = []string{"--max-bundle", "268435456"}
	p.b.startAgent()
	f.arm(t, "target-standby")
	cmd := p.a.command(context.Background(), "migrate", "--data", p.a.data(), "--peer", "b", "web", p.b.address, "--send-bundle")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a standby", func() bool { return f.reached("target-standby") })
	if got := p.b.bundlesOf(); len(got) != 1 {
		t.Errorf("with a standby, there are bundles %v", got)
	}
	p.b.stopAgent(syscall.SIGKILL)
	if err := cmd.Wait(); err == nil {
		t.Errorf("the migration ended well: %s", &out)
	}
	f.release("target-standby")
	p.b.startAgent()
	eventually(t, "the bundle is removed", func() bool { return len(p.b.bundlesOf()) == 0 })
	p.a.exec("web", "/bin/true")
	p.a.mustMigrate("web", p.b, "--send-bundle")
	p.b.exec("web", "/bin/true")
}
