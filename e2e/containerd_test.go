package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// containerd and its runc shim drive the binary through runc's contract: they run a container, look into it, pause it, save it into an
// image of theirs while it runs, and make it run again out of that.
func TestContainerd(t *testing.T) {
	c := startContainerd(t)
	const image, saved = "example.org/busybox:1", "example.org/saved:1"
	c.importImage(image)
	runtime := []string{"--snapshotter", "native", "--runc-binary", binary, "--runc-root", c.path("runc")}
	run := func(flags []string, id string, command ...string) []string {
		return append(append(append([]string{"run"}, flags...), append(runtime, image, id)...), command...)
	}

	if r := c.ctr(run([]string{"--rm"}, "short", "/bin/sh", "-c", "echo out; echo err >&2; exit 3")...); r.code != 3 || r.stdout != "out\n" {
		t.Errorf("run in the foreground: status %d, output %q, want 3 and out", r.code, r.stdout)
	}

	const counting = `i=0; while :; do i=$((i+1)); echo $i >/tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done`
	c.mustCtr(run([]string{"--detach"}, "counter", "/bin/sh", "-c", counting)...)
	if status := c.status("counter"); status != "RUNNING" {
		t.Errorf("it is %s after the start", status)
	}
	if r := c.ctr("task", "exec", "--exec-id", "status", "counter", "/bin/sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exec exited with %d, want 7", r.code)
	}
	c.mustCtr("task", "pause", "counter")
	if status := c.status("counter"); status != "PAUSED" {
		t.Errorf("it is %s after the pause", status)
	}
	c.mustCtr("task", "resume", "counter")
	if usage := c.mustCtr("task", "metrics", "counter"); !strings.Contains(usage, "memory.usage") { // memory.usage_in_bytes with version 1 of cgroups
		t.Errorf("metrics are %q", usage)
	}

	before := c.count("counter")
	c.mustCtr("containers", "checkpoint", "--task", "--rw", "--image", "counter", saved)
	eventually(t, "the saved container counts on", func() bool { return c.count("counter") > before })
	c.remove("counter")

	c.mustCtr("containers", "restore", "--rw", "--live", "counter", saved)
	restored := c.count("counter")
	if restored < before {
		t.Errorf("restored counter is at %d, it was saved after %d", restored, before)
	}
	eventually(t, "the restored container counts on", func() bool { return c.count("counter") > restored })
	c.remove("counter")
	if left, err := os.ReadDir(filepath.Join(c.path("runc"), c.namespace)); err != nil {
		t.Errorf("state directories: %v", err)
	} else if len(left) > 0 {
		t.Errorf("%d state directories are left, as %s", len(left), left[0].Name())
	}
}

// containerd drives a sandbox of several containers by the annotations of its CRI plug-in: one shim for all, each a task of its own.
func TestContainerdPod(t *testing.T) {
	c := startContainerd(t)
	const image = "example.org/busybox:1"
	c.importImage(image)
	run := func(kind, id string, flags []string, command ...string) []string {
		args := append([]string{"run", "--snapshotter", "native", "--runc-binary", binary, "--runc-root", c.path("runc"),
			"--annotation", "io.kubernetes.cri.container-type=" + kind, "--annotation", "io.kubernetes.cri.sandbox-id=pod",
			"--annotation", "io.kubernetes.cri.container-name=" + id}, flags...)
		return append(append(args, image, id), command...)
	}
	c.mustCtr(run("sandbox", "pod", []string{"--detach"}, "/bin/sleep", "1000000")...)
	c.mustCtr(run("container", "web", []string{"--detach"}, "/bin/httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc")...)
	if r := c.ctr(run("container", "short", []string{"--rm"}, "/bin/sh", "-c", "echo out; exit 3")...); r.code != 3 || r.stdout != "out\n" {
		t.Errorf("run in the foreground: %v", r)
	}
	c.mustCtr(run("container", "client", []string{"--detach"}, "/bin/sleep", "1000000")...)
	eventually(t, "one container answers another", func() bool {
		return c.ctr("task", "exec", "--exec-id", "get", "client", "/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/motd").stdout == "busybox root\n"
	})
	if usage := c.mustCtr("task", "metrics", "web"); !strings.Contains(usage, "memory.usage") {
		t.Errorf("metrics are %q", usage)
	}
	c.remove("web")
	for _, id := range []string{"pod", "client"} {
		if status := c.status(id); status != "RUNNING" {
			t.Errorf("%s is %s after the end of another container", id, status)
		}
	}
	if r := c.ctr("task", "exec", "--exec-id", "status", "client", "/bin/sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exec exited with %d, want 7", r.code)
	}
	c.remove("client")
	c.remove("pod")
	if left, err := os.ReadDir(filepath.Join(c.path("runc"), c.namespace)); err != nil {
		t.Errorf("state directories: %v", err)
	} else if len(left) > 0 {
		t.Errorf("%d state directories are left, as %s", len(left), left[0].Name())
	}
}

// A containerd is one that belongs to the test alone.
type containerd struct {
	*host
	socket string
	// namespace is what containerd calls one; cgroups and shims on this machine are named after it.
	namespace string
}

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	h := newHost(t)
	c := &containerd{host: h, socket: h.path("c.sock"), namespace: fmt.Sprintf("test-%d", os.Getpid())}
	config := h.file("containerd.toml", fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		h.path("content"), h.path("run"), c.socket))
	log, err := os.Create(h.path("containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Env = append(os.Environ(), "TMPDIR="+h.dir) // where it leaves what it restores from
	if err := daemon.Start(); err != nil {
		t.Fatalf("start containerd: %v", err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(c.ctr("task", "list", "--quiet").stdout) {
			c.ctr("task", "delete", "--force", id)
		}
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
		// Of the namespace's cgroup, containers remove only what is below it.
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.namespace)
		for _, dir := range append(left, "/sys/fs/cgroup/"+c.namespace) {
			syscall.Rmdir(dir)
		}
	})
	eventually(t, "containerd answers", func() bool { return c.ctr("version").code == 0 })
	return c
}

// ctr runs containerd's own client.
func (c *containerd) ctr(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", c.socket, "--namespace", c.namespace}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second // the shim may have inherited the pipes
	err := cmd.Run()
	if cmd.ProcessState == nil {
		c.t.Fatalf("ctr: %v", err)
	}
	return result{args: args, code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

func (c *containerd) mustCtr(args ...string) string {
	c.t.Helper()
	r := c.ctr(args...)
	if r.code != 0 {
		log, _ := os.ReadFile(c.path("containerd.log"))
		c.t.Fatalf("ctr %s: status %d: %s\ncontainerd's log:\n%s", strings.Join(args, " "), r.code, r.stderr, log[max(0, len(log)-4<<10):])
	}
	return r.stdout
}

// status is what containerd thinks of a container's task.
func (c *containerd) status(id string) string {
	c.t.Helper()
	for line := range strings.Lines(c.mustCtr("task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			return fields[2]
		}
	}
	return "gone"
}

// count returns how far the container has counted.
func (c *containerd) count(id string) int {
	c.t.Helper()
	var n int
	eventually(c.t, "the container has counted", func() bool {
		var err error
		n, err = strconv.Atoi(strings.TrimSpace(c.ctr("task", "exec", "--exec-id", "count", id, "/bin/cat", "/tmp/n").stdout))
		return err == nil
	})
	return n
}

// remove ends a container and forgets it.
func (c *containerd) remove(id string) {
	c.t.Helper()
	c.mustCtr("task", "kill", "--signal", "SIGKILL", id)
	eventually(c.t, "containerd sees the end of "+id, func() bool { return c.status(id) == "STOPPED" })
	c.ctr("task", "delete", id) // exits with the container's status
	c.mustCtr("containers", "delete", id)
}

// importImage makes an image of a busybox root and gives it to containerd.
func (c *containerd) importImage(name string) {
	c.t.Helper()
	root := c.directory("image-root")
	if err := guest.WriteBusyboxRoot(root); err != nil {
		c.t.Fatal(err)
	}
	layout := c.directory("layout", "blobs", "sha256")
	tar := func(dir, archive string) {
		if out, err := exec.Command("tar", "-C", dir, "-cf", archive, ".").CombinedOutput(); err != nil {
			c.t.Fatalf("tar: %v: %s", err, out)
		}
	}
	blob := func(mediaType string, content []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		if err := os.WriteFile(filepath.Join(layout, d.Digest.Encoded()), content, 0o644); err != nil {
			c.t.Fatal(err)
		}
		return d
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			c.t.Fatal(err)
		}
		return data
	}
	tar(root, c.path("layer.tar"))
	content, err := os.ReadFile(c.path("layer.tar"))
	if err != nil {
		c.t.Fatal(err)
	}
	layer := blob(v1.MediaTypeImageLayer, content)
	config := blob(v1.MediaTypeImageConfig, encode(v1.Image{
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		Config:   v1.ImageConfig{Env: []string{"PATH=/bin"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	}))
	manifest := blob(v1.MediaTypeImageManifest, encode(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{layer},
	}))
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	c.file("layout/index.json", string(encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{manifest}})))
	c.file("layout/"+v1.ImageLayoutFile, string(encode(v1.ImageLayout{Version: v1.ImageLayoutVersion})))
	tar(c.path("layout"), c.path("image.tar"))
	c.mustCtr("images", "import", c.path("image.tar"))
}
