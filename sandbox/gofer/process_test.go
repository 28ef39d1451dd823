package gofer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		mounts []Mount
		want   string
	}{
		"nothing":         {nil, "no mounts"},
		"too many":        {make([]Mount, maxMounts+1), "1025 mounts"},
		"a relative path": {[]Mount{{Source: "x"}}, "not an absolute path"},
		"no such source":  {[]Mount{{Source: dir}, {Source: dir + "/no"}}, "mount 1: source"},
		"direct writable": {[]Mount{{Source: dir, DirectFS: true}}, "read-only"},
	} {
		if _, err := Start(t.Context(), Config{Mounts: test.mounts}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ended, Config{Mounts: []Mount{{Source: dir}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestReady(t *testing.T) {
	for text, want := range map[string]string{statusReady: "", "": ErrDied.Error(), "no such luck": "gofer: no such luck"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
		w.Close()
		p := &Process{status: r}
		for range 2 {
			if err := p.Ready(t.Context()); (err == nil) != (want == "") || err != nil && err.Error() != want {
				t.Errorf("Ready after %q: %v, want %q", text, err, want)
			}
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := (&Process{status: r}).Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ready of a gofer that is silent: %v", err)
	}
}

// A gofer that is handed something else than it expects says so and ends.
func TestMainReportsFailure(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a gofer is started by root")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	oneMount, err := configFile(childConfig{Mounts: []childMount{{Directory: true}}})
	if err != nil {
		t.Fatal(err)
	}
	defer oneMount.Close()
	for want, config := range map[string]*os.File{"decode gofer configuration": null, "1 mounts, and 0 were handed over": oneMount} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := spare.StartGofer(spare.Mappings{}, null)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Give([]*os.File{null, config, w}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := (&Process{status: r}).Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Ready: %v, want %q", err, want)
		}
		if state := p.Wait(); state != "exit status 1" {
			t.Errorf("it ended with %s", state)
		}
	}
}

func TestSortDescriptors(t *testing.T) {
	for _, n := range []int{0, descriptorsWithoutMounts - 1, descriptorsWithoutMounts + 1} {
		if _, err := sortDescriptors(make([]int, n)); err == nil {
			t.Errorf("%d descriptors are taken for a gofer's", n)
		}
	}
	h, err := sortDescriptors([]int{7, 8, 9, 20, 21, 30, 31})
	want := &handed{log: 7, config: 8, status: 9, mounts: []handedMount{{20, 21}, {30, 31}}}
	if err != nil || !reflect.DeepEqual(h, want) {
		t.Errorf("sorted into %+v, %v, want %+v", h, err, want)
	}
}

// Package spare cannot ask this one.
func TestCapabilitiesOfStart(t *testing.T) {
	if want := setupCapabilities | readCapabilities | writeCapabilities; spare.GoferCapabilities != want {
		t.Errorf("a gofer is started with capabilities %x, and needs %x", spare.GoferCapabilities, want)
	}
}

func TestEndsWithItsConnections(t *testing.T) {
	dir := tree(t, map[string]string{"file": "still here"})
	p := startGofer(t, Config{Mounts: []Mount{{Source: dir}, {Source: dir}, {Source: dir}}})
	first, _ := dial(t, p, 0)
	second, root := dial(t, p, 1)
	p.Close() // now the first two are open in their clients, the third nowhere
	first.Close()
	if got := read(t, second, walk(t, second, root, "file")); got != "still here" {
		t.Errorf("after other connections ended, read %q", got)
	}
	second.Close()
	if err := p.Wait(); err != nil {
		t.Errorf("gofer without connections: %v", err)
	}
}

func TestKill(t *testing.T) {
	p := startGofer(t, Config{Mounts: []Mount{{Source: t.TempDir()}}})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Wait after Kill: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("second Kill: %v", err)
	}
}

// starterSocketFD is where starter finds the socket to its test.
const starterSocketFD = 3

// starter is the command that creates a container and ends: it starts a gofer,
// gives the sandbox's socket away and returns.
func starter(source string) error {
	p, err := Start(context.Background(), Config{Mounts: []Mount{{Source: source}}})
	if err != nil {
		return err
	}
	if err := p.Ready(context.Background()); err != nil {
		return err
	}
	return unix.Sendmsg(starterSocketFD, []byte{0}, unix.UnixRights(int(p.Client[0].Fd())), nil, 0)
}

func TestOutlivesItsStarter(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a gofer is started by root")
	}
	dir := tree(t, map[string]string{"file": "alive"})
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "starter")
	command := exec.Command("/proc/self/exe", starterCommand, dir)
	command.ExtraFiles = []*os.File{theirs}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	theirs.Close()

	client, root, _, err := lisafs.NewClient(receiveSocket(t, fds[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if got := read(t, client, walk(t, client, client.NewFD(root.ControlFD), "file")); got != "alive" {
		t.Errorf("read %q", got)
	}
}

// receiveSocket receives one socket over the given one, and closes that.
func receiveSocket(t *testing.T, fd int) *unet.Socket {
	t.Helper()
	f := os.NewFile(uintptr(fd), "test")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	socket, err := unet.NewSocket(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// Warnings reach the log, up to a bound.
func TestLogIsBounded(t *testing.T) {
	w := &boundedWriter{left: 3}
	var log bytes.Buffer
	w.to = &log
	for range 3 {
		if n, err := w.Write([]byte("ab")); n != 2 || err != nil {
			t.Errorf("Write returned %d, %v", n, err)
		}
	}
	if log.String() != "aba" {
		t.Errorf("wrote %q", log.String())
	}
}

func FuzzReadChildConfig(f *testing.F) {
	f.Add([]byte(`{"mounts":[{"directory":true},{"readOnly":true,"directFS":true}]}`))
	f.Add([]byte(`{"mounts":[]}`))
	f.Add([]byte(`{"mounts":[{}]} {}`))
	f.Add([]byte(`{"mounts":[{"path":"/etc"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := readChildConfig(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readChildConfig(bytes.NewReader(again)); err != nil {
			t.Errorf("%s was read and written as %s: %v", data, again, err)
		}
	})
}

// The largest configuration that Start writes is one that a gofer reads.
func TestLargestConfigFits(t *testing.T) {
	cfg := childConfig{Mounts: make([]childMount, maxMounts)}
	for i := range cfg.Mounts {
		cfg.Mounts[i] = childMount{Directory: true, ReadOnly: true, DirectFS: true}
	}
	f, err := configFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := readChildConfig(f); err != nil {
		t.Error(err)
	}
	if filepath.IsAbs(f.Name()) {
		t.Errorf("the configuration has a path: %s", f.Name())
	}
}
