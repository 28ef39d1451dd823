package gofer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
)

// starterCommand makes the test binary run starter.
const starterCommand = "start-a-gofer-and-exit"

// TestMain lets the test binary be the gofer that Start runs.
func TestMain(m *testing.M) {
	var run func() error
	switch {
	case len(os.Args) == 2 && os.Args[1] == Subcommand:
		run = Main
	case len(os.Args) == 3 && os.Args[1] == starterCommand:
		run = func() error { return starter(os.Args[2]) }
	default:
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startTimeout ends a test whose gofer hangs. Nothing is measured with it.
const startTimeout = 30 * time.Second

var background = gcontext.Background()

// startGofer starts a gofer that ends with the test, and waits until it serves.
func startGofer(t testing.TB, cfg Config) *Process {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a gofer is started by root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if cfg.LogFile == nil {
		cfg.LogFile = os.Stderr
	}
	p, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		p.Kill()
		p.process.Wait()
	})
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// dial mounts the i-th mount as a sandbox would, and returns its root.
func dial(t testing.TB, p *Process, i int) (*lisafs.Client, lisafs.ClientFD) {
	t.Helper()
	client, root, donated := dialDonated(t, p, i)
	if donated >= 0 {
		t.Fatalf("mount %d gave its own descriptor away", i)
	}
	return client, root
}

func dialDonated(t testing.TB, p *Process, i int) (*lisafs.Client, lisafs.ClientFD, int) {
	t.Helper()
	fd, err := dupFD(p.Client[i])
	if err != nil {
		t.Fatal(err)
	}
	socket, err := unet.NewSocket(fd)
	if err != nil {
		t.Fatal(err)
	}
	client, root, donated, err := lisafs.NewClient(socket)
	if err != nil {
		t.Fatalf("mount %d: %v", i, err)
	}
	t.Cleanup(client.Close)
	if err := client.StartChannels(); err != nil {
		t.Fatal(err)
	}
	return client, client.NewFD(root.ControlFD), donated
}

// walk walks one component at a time and fails the test if it cannot.
func walk(t testing.TB, client *lisafs.Client, fd lisafs.ClientFD, names ...string) lisafs.ClientFD {
	t.Helper()
	for _, name := range names {
		inode, err := fd.Walk(background, name)
		if err != nil {
			t.Fatalf("walk to %q: %v", name, err)
		}
		fd = client.NewFD(inode.ControlFD)
	}
	return fd
}

// tree makes a directory with the given files in it. Names with a slash at the
// end are directories.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
