package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A pod is a sandbox with further containers, made with the annotations of Kubernetes' container managers.
type pod struct {
	*host
	id      string // of its first container
	root    string // with busybox, for all
	bundles map[string]guest.Bundle
}

// sharedVolume is what a container manager calls the source of the volume that the containers share. It need not exist: it is in memory.
const sharedVolume = "/var/lib/pods/1/volumes/shared"

func startPod(t *testing.T, h *host, id string) *pod {
	t.Helper()
	p := &pod{host: h, id: id, root: dataDir(t), bundles: make(map[string]guest.Bundle)}
	if err := guest.WriteBusyboxRoot(p.root); err != nil {
		t.Fatal(err)
	}
	p.bundles[id] = guest.Bundle{Root: p.root, Args: []string{"/bin/sleep", "1000000"}, Edit: annotate(map[string]string{
		"io.kubernetes.cri.container-type":    "sandbox",
		"dev.gvisor.spec.mount.volume.source": sharedVolume,
		"dev.gvisor.spec.mount.volume.type":   "tmpfs",
		"dev.gvisor.spec.mount.volume.share":  "pod",
	})}
	h.run(id, h.bundle(id, p.bundles[id]))
	return p
}

func annotate(annotations map[string]string) func(*specs.Spec) {
	return func(spec *specs.Spec) { spec.Annotations = annotations }
}

// add writes the bundle of a further container, and returns its directory.
func (p *pod) add(name string, b guest.Bundle, edit ...func(*specs.Spec)) string {
	p.t.Helper()
	if b.Root == "" {
		b.Root = p.root
	}
	b.Mounts = append(b.Mounts, guest.Bind(sharedVolume, "/mnt"))
	b.Edit = func(spec *specs.Spec) {
		spec.Annotations = map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id, "io.kubernetes.cri.container-name": name,
		}
		for _, e := range edit {
			e(spec)
		}
	}
	p.bundles[name] = b
	return p.bundle(name, b)
}

// start runs a further container, whose ID is its name.
func (p *pod) start(name, script string, edit ...func(*specs.Spec)) {
	p.t.Helper()
	p.run(name, p.add(name, guest.Bundle{Args: []string{"/bin/sh", "-c", script}}, edit...))
}

// pidNamespace makes a container share a PID namespace by path, or, without one, its sandbox's.
func pidNamespace(path string) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		kept := spec.Linux.Namespaces[:0]
		for _, ns := range spec.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace {
				if ns.Path = path; path == "" {
					continue
				}
			}
			kept = append(kept, ns)
		}
		spec.Linux.Namespaces = kept
	}
}

const idling = "while :; do sleep 1; done"

// Each container of a sandbox has the contract of a container: states, signals, an exit status, a process on the host. Network and
// shared volume are the sandbox's, processes and mounts its own.
func TestContainers(t *testing.T) {
	h := newHost(t)
	p := startPod(t, h, "pod")

	dir := p.add("web", guest.Bundle{Args: []string{"/bin/httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/mnt"}})
	h.mustLaunch("web", "create", "--bundle", dir, "--pid-file", h.path("web.pid"), "web")
	h.wantStatus("web", specs.StateCreated)
	h.refuses("exec", "web", "/bin/true")
	h.must("start", "web")
	h.wantStatus("web", specs.StateRunning)
	if pid := h.sandboxState("web").Pid; fmt.Sprint(pid) != readFile(t, h.path("web.pid")) || pid == h.sandboxState("pod").Pid {
		t.Errorf("the PID in its state is %d, in the pid file %s", pid, readFile(t, h.path("web.pid")))
	}

	outside := dataDir(t)
	h.run("client", p.add("client", guest.Bundle{Args: []string{"/bin/sh", "-c", idling}, Mounts: []specs.Mount{guest.Bind(outside, "/var/data")}}))
	h.exec("client", "/bin/sh", "-c", "echo of the client >/mnt/page; echo on the host >/var/data/file; echo own >/tmp/own")
	eventually(t, "the server answers over the shared loopback", func() bool {
		return h.try("exec", "client", "/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/page").stdout == "of the client\n"
	})
	h.refuses("exec", "web", "/bin/cat", "/tmp/own")
	if got := h.exec("web", "/bin/cat", "/proc/1/cmdline"); !strings.HasPrefix(got, "/bin/httpd") {
		t.Errorf("process 1 of web's PID namespace is %q", got)
	}
	if got := h.must("ps", "web"); !strings.Contains(got, "httpd") || strings.Contains(got, "sleep") {
		t.Errorf("ps of web says\n%s", got)
	}

	// PID namespaces are shared as asked for.
	p.start("sees-pod", idling, pidNamespace(""))
	p.start("sees-web", idling, pidNamespace(fmt.Sprintf("/proc/%d/ns/pid", h.sandboxState("web").Pid)))
	if got := h.exec("sees-pod", "/bin/cat", "/proc/1/cmdline"); !strings.HasPrefix(got, "/bin/sleep\x001000000") {
		t.Errorf("process 1 of who shares the sandbox's PID namespace is %q", got)
	}
	if got := h.exec("sees-web", "/bin/cat", "/proc/1/cmdline"); !strings.HasPrefix(got, "/bin/httpd") {
		t.Errorf("process 1 of who shares web's PID namespace is %q", got)
	}
	h.must("kill", "--all", "sees-web", "KILL")
	if got := strings.TrimSpace(h.try("wait", "sees-web").stdout); got != "137" {
		t.Errorf("the killed one has status %s, want 137", got)
	}
	h.exec("web", "/bin/true")
	// One that has ended, and was there too, does not stand in the way.
	p.start("sees-web-too", idling, pidNamespace(fmt.Sprintf("/proc/%d/ns/pid", h.sandboxState("web").Pid)))
	h.must("delete", "--force", "sees-web-too")

	// A signal, an exit status, and a process on the host that has it too.
	p.start("job", "trap 'echo over; exit 7' TERM; echo up; while :; do sleep 0.05; done")
	eventually(t, "job is up", func() bool { return strings.Contains(readFile(t, h.path("job.log")), "up") })
	standIn := h.sandboxState("job").Pid
	h.must("kill", "job")
	if r := h.try("wait", "job"); r.code != 7 {
		t.Error(r)
	}
	eventually(t, "the process that stands for job has ended", func() bool { return syscall.Kill(standIn, 0) != nil || isZombie(standIn) })
	h.wantStatus("job", specs.StateStopped)
	h.refuses("exec", "job", "/bin/true")
	if log := readFile(t, h.path("job.log")); !strings.Contains(log, "over") {
		t.Errorf("job printed %q", log)
	}
	if r := h.try("events", "job"); r.code != 0 || r.stdout != "" {
		t.Errorf("events of one that has ended: %v", r)
	}
	h.must("delete", "job")
	p.start("job", "exit 3") // the name is free again
	if r := h.try("wait", "job"); r.code != 3 {
		t.Error(r)
	}

	// Who mounted the volume first may go: it stays, and so do the others.
	h.refuses("delete", "client")
	h.must("delete", "--force", "client")
	if got := readFile(t, filepath.Join(outside, "file")); got != "on the host\n" {
		t.Errorf("the host has %q of what the deleted container wrote", got)
	}
	h.must("delete", "--force", "web")
	if got := h.exec("sees-pod", "/bin/cat", "/mnt/page"); got != "of the client\n" {
		t.Errorf("the shared volume has %q", got)
	}

	h.must("pause", "sees-pod")
	h.wantStatus("pod", "paused")
	h.must("resume", "pod")
	if usage := h.must("events", "--stats", "sees-pod"); !strings.Contains(usage, `"pids":{"current":2}`) {
		t.Errorf("sees-pod uses %s, want 2 processes", usage)
	}
	for message, args := range map[string][]string{
		"does not exist":   {"create", "--sandbox", "nobody", "--bundle", dir, "x"},
		"alone":            {"create", "--sandbox", "sees-pod", "--bundle", dir, "x"},
		"checkpoint that,": {"checkpoint", "sees-pod", "--image", h.path("no")},
	} {
		if got := h.refuses(args...); !strings.Contains(got, message) {
			t.Errorf("%v: %q does not say %q", args, got, message)
		}
	}

	// One that never started can be ended and deleted.
	h.mustLaunch("idle", "create", "--bundle", p.add("idle", guest.Bundle{Args: []string{"/bin/true"}}), "idle")
	h.must("kill", "idle")
	if r := h.try("wait", "idle"); r.code != 137 {
		t.Error(r)
	}
	h.must("delete", "idle")

	// With the first container ends the sandbox.
	h.must("delete", "--force", "pod")
	h.wantStatus("sees-pod", specs.StateStopped)
	for _, id := range []string{"sees-pod", "sees-web", "job"} {
		h.must("delete", id)
	}
	if left := strings.TrimSpace(h.must("list", "--quiet")); left != "" {
		t.Errorf("left are %s", left)
	}
}

// isZombie says whether a process has ended and only waits for its parent, if that.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// countingClient keeps one connection to redis, and says in the shared volume how far it came. It ends when anything goes wrong.
const countingClient = `
import socket, os
s = socket.create_connection(("127.0.0.1", 6379))
while True:
    s.sendall(b"INCR n\r\n")
    n = int(s.recv(64)[1:])
    with open("/mnt/n.new", "w") as f:
        f.write(str(n))
    os.rename("/mnt/n.new", "/mnt/n")
`

// startCountingPod starts a sandbox with redis and a client that stays connected to it.
func startCountingPod(t *testing.T, h *host) *pod {
	t.Helper()
	p := startPod(t, h, "pod")
	h.run("redis", p.add("redis", guest.Bundle{Root: "/", Args: []string{"/usr/bin/redis-server", "--port", "6379", "--save", "", "--dir", "/tmp"}}))
	cli := []string{"exec", "redis", "/usr/bin/redis-cli", "-p", "6379"}
	eventually(t, "redis answers", func() bool { return strings.Contains(h.try(append(cli, "ping")...).stdout, "PONG") })
	h.must(append(cli, "debug", "populate", "20000", "key", "100")...)
	h.run("client", p.add("client", guest.Bundle{Root: "/", Args: []string{guest.Python, "-c", countingClient}}))
	eventually(t, "the client counts", func() bool { return h.try("exec", "client", "/bin/cat", "/mnt/n").code == 0 })
	h.exec("client", "/bin/sh", "-c", "head -c 100000 /dev/urandom >/mnt/random")
	return p
}

// podCount is how far the client of a counting pod has come.
func podCount(h *host, client string) int {
	h.t.Helper()
	return atoi(h.t, h.exec(client, "/bin/cat", "/mnt/n"))
}

// podCountsOn fails unless the client of a counting pod goes on.
func podCountsOn(h *host, client string) {
	h.t.Helper()
	n := podCount(h, client)
	eventually(h.t, "the client counts on", func() bool { return podCount(h, client) > n })
}

// digest is of all that must not change: all keys but the one that counts, and a file in the volume.
func (p *pod) digest(h *host) string {
	h.t.Helper()
	return h.exec("redis", "/bin/sh", "-c", "redis-cli -p 6379 --raw mget $(seq -f key:%.0f 0 19999) | md5sum; md5sum </mnt/random")
}

// A sandbox with redis, a client that stays connected to it, and a volume in memory between both is restored elsewhere under other
// IDs, and all goes on.
func TestContainersRestored(t *testing.T) {
	a, b := newHost(t), newHost(t)
	p := startCountingPod(t, a)
	p.start("short", "exit 0")
	before, n := p.digest(a), podCount(a, "client")
	if r := a.try("wait", "short"); r.code != 0 {
		t.Fatal(r)
	}
	image := a.path("images") + ":pod"

	// What is created and not started would start by itself.
	a.mustLaunch("idle", "create", "--bundle", p.add("idle", guest.Bundle{}), "idle")
	if got := a.refuses("checkpoint", "pod", "--image", image); !strings.Contains(got, "container-not-started") {
		t.Errorf("checkpoint with a container that was not started: %s", got)
	}
	a.must("delete", "--force", "idle")

	a.must("checkpoint", "pod", "--image", image, "--leave-running")
	if later := podCount(a, "client"); later < n {
		t.Errorf("the client is at %d, it was at %d", later, n)
	}
	a.must("checkpoint", "pod", "--image", image)
	a.wantStatus("redis", specs.StateStopped)

	podDir := b.bundle("pod", p.bundles["pod"])
	redis, client := "redis="+b.bundle("redis", p.bundles["redis"]), "client="+b.bundle("client", p.bundles["client"])
	p.checkPlans(b, image, podDir, redis, client)

	b.mustLaunch("pod2", "restore", "--image", image, "--bundle", podDir, "--bundle", redis, "--bundle", client,
		"--container-id", "client=client2", "--container-output", "client="+b.path("client2.log"), "--container-pid-file", "client="+b.path("client2.pid"),
		"--detach", "pod2")
	if got := strings.Fields(b.must("list", "--quiet")); !cmp.Equal(got, []string{"client2", "pod2", "redis"}) {
		t.Fatalf("restored are %q", got)
	}
	if after := p.digest(b); after != before {
		t.Errorf("content is\n%s, was\n%s", after, before)
	}
	if restored := podCount(b, "client2"); restored < n {
		t.Errorf("the client is at %d, it was at %d", restored, n)
	}
	podCountsOn(b, "client2")

	// Restored containers are as good as others.
	if pid := readFile(t, b.path("client2.pid")); pid != fmt.Sprint(b.sandboxState("client2").Pid) {
		t.Errorf("the pid file says %s", pid)
	}
	p2 := &pod{host: b, id: "pod2", root: p.root, bundles: p.bundles}
	p2.start("third", idling)
	if got := b.exec("third", "/bin/md5sum", "/mnt/random"); !strings.Contains(before, strings.Fields(got)[0]) {
		t.Errorf("a new container has %s of the volume", got)
	}
	b.must("kill", "redis", "KILL")
	if r := b.try("wait", "redis"); r.code != 137 {
		t.Error(r)
	}
	if r := b.try("wait", "client2"); r.code == 0 {
		t.Errorf("the client ends well without its server: %v", r)
	}
	if log := readFile(t, b.path("client2.log")); !strings.Contains(log, "Error") {
		t.Errorf("the client printed %q", log)
	}
	b.wantStatus("pod2", specs.StateRunning)
	b.wantStatus("third", specs.StateRunning)
}

// A container is being created from the moment at which its restore begins, and may not be deleted: before the sandbox has a process, too. A hook
// of the first container looks at that moment. What is left by a command that was killed may.
func TestContainersBeingRestored(t *testing.T) {
	h := newHost(t)
	p := startPod(t, h, "pod")
	p.start("second", idling)
	image := h.path("images") + ":pod"
	h.must("checkpoint", "pod", "--image", image)
	h.must("delete", "pod")
	h.must("delete", "second")
	hook := "( " + binary + " --root " + h.state + " state second; " + binary + " --root " + h.state + " delete second; echo code $? ) >" + h.path("hook.log") + " 2>&1"
	restore := func(script string) result {
		first := p.bundles["pod"]
		edit := first.Edit
		first.Edit = func(spec *specs.Spec) {
			edit(spec)
			spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
		}
		return h.launch("pod", "restore", "--image", image, "--bundle", h.bundle("hooked", first),
			"--bundle", "second="+h.bundle("second", p.bundles["second"]), "--detach", "pod")
	}
	if r := restore(hook); r.code != 0 {
		t.Fatalf("restore: %v; the hook saw %s", r, readFile(t, h.path("hook.log")))
	}
	if saw := readFile(t, h.path("hook.log")); !strings.Contains(saw, `"creating"`) || strings.Contains(saw, "code 0") {
		t.Errorf("the hook saw %s", saw)
	}
	h.wantStatus("second", specs.StateRunning)
	h.must("delete", "--force", "pod")
	h.must("delete", "second")

	if r := restore("kill -9 $PPID"); r.code == 0 {
		t.Fatal("the command outlived KILL")
	}
	h.wantStatus("second", specs.StateStopped)
	h.must("delete", "second")
}

// orphaning is a first process that makes others which, as itself, have no parent inside. It ends with 7 when it is told to.
const orphaning = `
import ctypes, os, signal, sys, time
CLONE_PARENT, SYS_clone = 0x8000, 56
for _ in range(10):
    if ctypes.CDLL(None).syscall(SYS_clone, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.execv("/bin/sleep", ["sleep", "1000000"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
while True:
    time.sleep(1)
`

// A restored container has the first process that it had, also beside others that look like one.
func TestContainersRestoredWithTheirFirstProcess(t *testing.T) {
	h := newHost(t)
	p := startPod(t, h, "pod")
	h.run("second", p.add("second", guest.Bundle{Root: "/", Args: []string{guest.Python, "-c", orphaning}}, pidNamespace("")))
	eventually(t, "it is up", func() bool { return strings.Contains(readFile(t, h.path("second.log")), "up") })
	image := h.path("images") + ":pod"
	h.must("checkpoint", "pod", "--image", image)
	h.must("delete", "pod")
	h.must("delete", "second")
	h.mustLaunch("pod", "restore", "--image", image, "--bundle", h.bundle("pod", p.bundles["pod"]), "--bundle", "second="+h.bundle("second", p.bundles["second"]), "--detach", "pod")
	h.must("kill", "second", "TERM")
	if r := h.try("wait", "second"); r.code != 7 {
		t.Errorf("the first process of the restored container did not get the signal: %v", r)
	}
}

// checkPlans checks what plan says about several containers at once: all mistakes, each with its container.
func (p *pod) checkPlans(h *host, image, podDir, redis, client string) {
	h.t.Helper()
	planned := &savedCounter{image: image}
	if findings, code := planned.plan(h, podDir, redis, client); code != 0 || len(findings) > 0 {
		h.t.Errorf("plan exits with %d and finds %v", code, findings)
	}
	wrong := p.bundles["client"]
	wrong.Mounts = append([]specs.Mount{guest.Bind(h.directory("more"), "/srv")}, wrong.Mounts...)
	wrong.Terminal, wrong.Writable = true, true
	findings, code := planned.plan(h, podDir, redis, "client="+h.bundle("wrong", wrong), "nobody="+podDir)
	var got []string
	for _, f := range findings {
		got = append(got, f.Code+" "+f.Subject)
	}
	want := []string{
		"E_ENV_BECAME_WRITABLE mount / of container client", "E_ENV_LEFT_OVER mount /srv of container client",
		"E_ENV_CONTAINER_EXTRA mount / of container nobody", "E_PLAN_TERMINAL process.terminal of container client",
	}
	if diff := cmp.Diff(want, got); diff != "" || code == 0 {
		h.t.Errorf("plan exits with %d, findings (-want +got):\n%s", code, diff)
	}
	if findings, _ := planned.plan(h, podDir, redis); len(findings) != 1 || findings[0].Code != "E_ENV_CONTAINER_MISSING" {
		h.t.Errorf("without a bundle for client, plan finds %v", findings)
	}
	if got := h.refuses("restore", "--image", image, "--bundle", podDir, "--bundle", redis, "--detach", "x"); !strings.Contains(got, "E_ENV_CONTAINER_MISSING") {
		h.t.Errorf("restore without a bundle for client: %s", got)
	}
}

// The terminal of a further container is its own, and comes back with a restore.
func TestContainersWithTerminal(t *testing.T) {
	a, b := newHost(t), newHost(t)
	p := startPod(t, a, "pod")
	dir := p.add("shell", guest.Bundle{Args: []string{"/bin/sh", "-i"}, Terminal: true, Env: []string{"PS1=$ "}})
	console := newConsoleSocket(t)
	a.mustLaunch("shell", "run", "--detach", "--bundle", dir, "--console-socket", console.path, "shell")
	term := watch(t, console.receive())
	term.ask("true")
	term.typeIn("x=kept\n")
	term.resize(33, 77)
	if got := term.ask("stty size"); got != "33 77" {
		t.Errorf("the window is %q", got)
	}
	image := a.path("images") + ":pod"
	a.must("checkpoint", "pod", "--image", image)

	flags := []string{"restore", "--image", image, "--bundle", b.bundle("pod", p.bundles["pod"]), "--bundle", "shell=" + b.bundle("shell", p.bundles["shell"]), "--detach"}
	if got := b.refuses(append(flags, "pod")...); !strings.Contains(got, "--container-console-socket shell=") {
		t.Errorf("restore without a console: %s", got)
	}
	console = newConsoleSocket(t)
	b.mustLaunch("pod", append(flags, "--container-console-socket", "shell="+console.path, "pod")...)
	term = watch(t, console.receive())
	if got := term.ask("echo $x; stty size"); got != "kept 33 77" {
		t.Errorf("the restored shell says %q", got)
	}
	term.typeIn("sleep 1000\n")
	eventually(t, "the shell has a job", func() bool { return strings.Contains(b.must("ps", "shell"), "sleep") })
	term.typeIn("\x03")
	term.ask("true")
	term.typeIn("exit 5\n")
	if r := b.try("wait", "shell"); r.code != 5 {
		t.Error(r)
	}
}

// What is left of a container that has ended stands in the way of a checkpoint, and is named.
func TestContainersLeftOver(t *testing.T) {
	h := newHost(t)
	p := startPod(t, h, "pod")
	p.start("left", "sleep 1000000 & exit 4", pidNamespace(""))
	if r := h.try("wait", "left"); r.code != 4 {
		t.Fatal(r)
	}
	image := h.path("images") + ":pod"
	if got := h.refuses("checkpoint", "pod", "--image", image); !strings.Contains(got, "ended-container-in-use") || !strings.Contains(got, `"left"`) {
		t.Errorf("checkpoint beside processes of an ended container: %s", got)
	}
	h.wantStatus("pod", specs.StateRunning)
	h.must("delete", "left")
	h.must("checkpoint", "pod", "--image", image, "--leave-running")
}
