package netlab

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// machine adds a machine, or fails.
func machine(t *testing.T, l *Lab, mac, address string, up bool) *os.File {
	t.Helper()
	ns, err := l.Machine(mac, address, up)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestLab(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := machine(t, l, "02:00:00:00:00:01", "10.9.0.1/24", true)
	server := machine(t, l, "02:00:00:00:00:02", "10.9.0.2/24", false)
	listener, err := Listen(server, "10.9.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	if err := AddNeighbour(client, "02:00:00:00:00:02", "10.9.0.2"); err != nil {
		t.Fatal(err)
	}
	if conn, err := Dial(client, listener.Addr().String(), 50*time.Millisecond); err == nil {
		conn.Close()
		t.Error("a machine that is down is reached")
	}
	if err := Up(server); err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(client, listener.Addr().String(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := io.ReadAll(conn); err != nil || string(said) != "hello" {
		t.Errorf("it says %q: %v", said, err)
	}
	if err := Unplug(server); err != nil {
		t.Fatal(err)
	}
	if conn, err := Dial(client, listener.Addr().String(), 50*time.Millisecond); err == nil {
		conn.Close()
		t.Error("a machine that was unplugged is reached")
	}
}

// A command that is started in a namespace is in it, and finds others' by their path.
func TestStart(t *testing.T) {
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var out strings.Builder
	cmd := exec.Command("/bin/sh", "-c", "readlink /proc/self/ns/net && stat -L -c 'net:[%i]' "+Path(ns))
	cmd.Stdout = &out
	if err := Start(ns, cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(out.String())
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil || len(lines) != 2 || lines[0] != lines[1] || lines[0] == own {
		t.Errorf("the command is in %q, this process in %q: %v", lines, own, err)
	}
}
