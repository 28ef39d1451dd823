package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// memoryUsage returns what a cgroup is charged for, in bytes.
func memoryUsage(t *testing.T, path string) int {
	t.Helper()
	for _, file := range []string{
		filepath.Join("/sys/fs/cgroup/memory", path, "memory.usage_in_bytes"), filepath.Join("/sys/fs/cgroup", path, "memory.current"),
	} {
		if data, err := os.ReadFile(file); err == nil {
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("cgroup %s is not charged for memory", path)
	return 0
}

// held is how much memory the sandbox of these tests holds.
const heldBytes = 48 << 20

// A sandbox that outgrows the limit on the target while it moves ends its standby, and nothing else.
func TestMigrateOutgrowsTheTarget(t *testing.T) {
	f := newFailpoints(t)
	p := newPair(t)
	c := startCounter(t, p.a.host, "web", guest.Bundle{})
	limit := int64(96 << 20)
	limited := c.bundle
	limited.Edit = func(s *specs.Spec) {
		s.Linux.CgroupsPath = fmt.Sprintf("/sbxmigrate-e2e-%d-outgrown", os.Getpid())
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	}
	bundle := p.b.bundle("limited", limited)
	f.arm(t, "source-round")
	cmd, out := p.a.startMigrating("web", p.b, bundle)
	eventually(t, "a round", func() bool { return f.reached("source-round") })
	p.a.exec("web", "/bin/sh", "-c", "head -c 134217728 /dev/urandom >/tmp/more")
	f.release("source-round")
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "the memory limit of its cgroup may be too low") {
		t.Fatalf("%v: %s", err, out)
	}
	c.countsOn()
	// The negative control: smaller again, it moves, to the same agent.
	p.a.exec("web", "/bin/rm", "/tmp/more")
	p.a.mustMigrate("web", p.b, "--bundle", bundle)
	c.restored(p.b.host, "web").countsOn()
}

// What arrives is charged to the sandbox's cgroup on the target, however it comes, and so is what is restored. A limit below that is refused.
func TestMigrateChargesTheSandbox(t *testing.T) {
	p := newPair(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	cgroup := func(name string, limit int64) (string, guest.Bundle) {
		path := fmt.Sprintf("/sbxmigrate-e2e-%d-%s", os.Getpid(), name)
		return path, guest.Bundle{
			Root: root,
			Args: []string{"/bin/sh", "-c", fmt.Sprintf("head -c %d /dev/urandom >/tmp/held; touch /tmp/ready; while :; do sleep 1; done", heldBytes)},
			Edit: func(s *specs.Spec) {
				s.Linux.CgroupsPath = path
				if limit > 0 {
					s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
				}
			},
		}
	}
	wantCharged := func(what, path string) {
		t.Helper()
		if got := memoryUsage(t, path); got < heldBytes {
			t.Errorf("%s: the sandbox holds %d bytes, its cgroup is charged for %d", what, heldBytes, got)
		}
	}
	path, bundle := cgroup("first", 0)
	p.a.run("web", p.a.bundle("web", bundle))
	eventually(t, "it holds memory", func() bool { return p.a.try("exec", "web", "/bin/cat", "/tmp/ready").code == 0 })
	wantCharged("run", path)
	checksum := p.a.exec("web", "/bin/md5sum", "/tmp/held")

	_, small := cgroup("small", heldBytes)
	r := p.a.migrate("web", p.b, "--bundle", p.b.bundle("small", small))
	if r.code == 0 || !strings.Contains(r.stderr, "raise the limit") {
		t.Errorf("to a host where the limit is too low: %v", r)
	}

	from, to := p.a, p.b
	for _, mode := range []string{"precopy", "stop", "postcopy", "hybrid"} {
		path, bundle := cgroup(mode, heldBytes+(64<<20))
		from.mustMigrate("web", to, "--mode", mode, "--bundle", to.bundle(mode, bundle))
		from.must("delete", "web")
		from, to = to, from
		if got := from.exec("web", "/bin/md5sum", "/tmp/held"); got != checksum {
			t.Errorf("%s: checksum %s, before %s", mode, got, checksum)
		}
		wantCharged(mode, path)
	}
	image := from.path("images") + ":web"
	from.must("checkpoint", "web", "--image", image)
	from.must("delete", "--force", "web")
	if refused := to.refuses("restore", "--detach", "--image", image, "--bundle", to.bundle("small-again", small), "web"); !strings.Contains(refused, "E_PLAN_MEMORY_LIMIT") {
		t.Errorf("restoring below too low a limit: %s", refused)
	}
	path, bundle = cgroup("restored", heldBytes+(64<<20))
	to.mustLaunch("web", "restore", "--detach", "--image", image, "--bundle", to.bundle("restored", bundle), "web")
	if got := to.exec("web", "/bin/md5sum", "/tmp/held"); got != checksum {
		t.Errorf("restored: checksum %s, before %s", got, checksum)
	}
	wantCharged("restore", path)
	to.must("delete", "--force", "web")
	wantNoCgroups(t, "*")
}

// wantNoCgroups looks for what this process's tests left, in both versions of cgroups.
func wantNoCgroups(t *testing.T, pattern string) {
	t.Helper()
	name := fmt.Sprintf("sbxmigrate-e2e-%d-%s", os.Getpid(), pattern)
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, name)); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
	}
}

// processesOf lists who is in a cgroup.
func processesOf(path string) []string {
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if data, err := os.ReadFile(filepath.Join(root, path, "cgroup.procs")); err == nil {
			return strings.Fields(string(data))
		}
	}
	return nil
}

// A further container has the cgroup that its bundle names, with its gofer and the process that stands for it, whether it was created,
// came by a migration or was restored; and takes it along when it is deleted. That the limits of its bundle are not enforced is said each time.
func TestContainersHaveTheirCgroups(t *testing.T) {
	p := newPair(t)
	c := startPod(t, p.a.host, "pod")
	named := func(name string) (string, func(*specs.Spec)) {
		path := fmt.Sprintf("/sbxmigrate-e2e-%d-further-%s", os.Getpid(), name)
		return path, func(s *specs.Spec) { s.Linux.CgroupsPath, s.Linux.Resources = path, &specs.LinuxResources{} }
	}
	bundles := func(h *peerHost, how string) (path string, flags []string) {
		path, edit := named(how)
		second := c.bundles["second"]
		before := second.Edit
		second.Edit = func(s *specs.Spec) { before(s); edit(s) }
		return path, []string{"--bundle", h.bundle("pod-"+how, c.bundles["pod"]), "--bundle", "second=" + h.bundle("second-"+how, second)}
	}
	check := func(h *peerHost, path string) {
		t.Helper()
		_, gofer := h.sandboxPIDs("second")
		want := []string{strconv.Itoa(gofer), strconv.Itoa(h.sandboxState("second").Pid)}
		eventually(t, fmt.Sprintf("%v are in %s", want, path), func() bool {
			there := processesOf(path)
			return slices.Contains(there, want[0]) && slices.Contains(there, want[1])
		})
	}
	warned := func(where, output string) {
		t.Helper()
		if !strings.Contains(output, "linux.resources are not enforced") {
			t.Errorf("%s does not say that limits are not enforced: %s", where, output)
		}
	}
	path, edit := named("created")
	c.start("second", idling, edit)
	check(p.a, path)
	warned("run", readFile(t, p.a.path("second.log")))

	path, flags := bundles(p.b, "migrated")
	p.a.mustMigrate("pod", p.b, flags...)
	check(p.b, path)
	warned("the log of the target's agent", p.b.log.String())
	p.a.must("delete", "second")
	p.a.must("delete", "pod")

	image := p.b.path("images") + ":pod"
	p.b.must("checkpoint", "pod", "--image", image)
	p.b.must("delete", "second")
	p.b.must("delete", "pod")
	path, flags = bundles(p.b, "restored")
	r := p.b.launch("pod", append(append([]string{"restore", "--image", image, "--detach"}, flags...), "pod")...)
	if r.code != 0 {
		t.Fatal(r)
	}
	warned("restore", r.stderr)
	check(p.b, path)
	p.b.must("delete", "--force", "second")
	wantNoCgroups(t, "further-*")
}
