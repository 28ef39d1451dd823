package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// stopAndCopy moves with runsc: checkpoint, copy the image to the other host, restore there. Everything is as good for it as can be: the
// image is not compressed, since that takes longer than it saves here; the copy is plain TCP over the same bridge as our migration, written
// by the kernel alone; the container is created ahead; and loading goes on in the background after the restored redis runs.
type stopAndCopy struct {
	hosts     [2]*host
	bundle    guest.Bundle
	at, moves int
}

// newStopAndCopy starts the sandbox on the first host.
func newStopAndCopy(hosts [2]*host, bundle guest.Bundle, place *os.File) (mover, error) {
	s := &stopAndCopy{hosts: hosts, bundle: bundle}
	dir, err := hosts[0].bundle("first", inNamespace(bundle, place))
	if err == nil {
		_, err = hosts[0].run("run", "--detach", "--pid-file", hosts[0].path("pid"), "--bundle", dir, moveID)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stopAndCopy) close() {
	for _, h := range s.hosts {
		h.delete(moveID)
	}
}

func (s *stopAndCopy) move(to *os.File) (map[string]float64, error) {
	s.moves++
	from, there := s.hosts[s.at], s.hosts[1-s.at]
	dir, err := there.bundle(fmt.Sprint(s.moves), inNamespace(s.bundle, to))
	if err != nil {
		return nil, err
	}
	saved, arrived := from.path("saved"), there.path("arrived")
	defer os.RemoveAll(arrived)
	defer os.RemoveAll(saved)
	if err := os.Mkdir(arrived, 0o700); err != nil {
		return nil, err
	}
	if _, err := there.run("create", "--pid-file", there.path("pid"), "--bundle", dir, moveID); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := from.run("checkpoint", "-image-path", saved, moveID); err != nil {
		return nil, err
	}
	if err := awaitEnd(from.path("pid")); err != nil {
		return nil, err
	}
	copying := time.Now()
	if err := copyOver(from, there, saved, arrived); err != nil {
		return nil, fmt.Errorf("copy the image: %w", err)
	}
	copied := time.Since(copying)
	if err := netlab.Up(to); err != nil { // not earlier: until now another machine had its address
		return nil, err
	}
	if _, err := there.run("restore", "-detach", "-background", "-image-path", arrived, "-bundle", dir, moveID); err != nil {
		return nil, err
	}
	took := time.Since(began)
	from.delete(moveID)
	s.at = 1 - s.at
	return map[string]float64{copyQuantity: inMillis(copied), totalQuantity: inMillis(took)}, nil
}

// awaitEnd waits until the process in a pid file has ended: only then the image is complete.
func awaitEnd(pidFile string) error {
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	stat := filepath.Join("/proc", strings.TrimSpace(string(pid)), "stat")
	for deadline := time.Now().Add(responseLimit); ; time.Sleep(time.Millisecond) {
		// What is behind the name is the state; Z has ended, and waits for its parent.
		text, err := os.ReadFile(stat)
		if _, rest, _ := strings.Cut(string(text), ") "); err != nil || strings.HasPrefix(rest, "Z") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %s has not ended within %v", strings.TrimSpace(string(pid)), responseLimit)
		}
	}
}

// copyOver copies the files of a directory from one host to another over the network between them, one after the other.
func copyOver(from, to *host, source, target string) error {
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	listener, err := netlab.Listen(to.ns, to.address+":0")
	if err != nil {
		return err
	}
	defer listener.Close()
	for _, entry := range entries {
		received := make(chan error, 1)
		go func() { received <- receiveFile(listener, filepath.Join(target, entry.Name())) }()
		err := sendFile(from, listener.Addr().String(), filepath.Join(source, entry.Name()))
		if err != nil {
			listener.Close()
		}
		if err := errors.Join(err, <-received); err != nil {
			return err
		}
	}
	return nil
}

func sendFile(from *host, address, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := netlab.Dial(from.ns, address, responseLimit)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(conn, f)
	return err
}

func receiveFile(listener net.Listener, name string) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, conn)
	return errors.Join(err, f.Close())
}
