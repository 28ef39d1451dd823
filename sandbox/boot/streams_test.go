package boot

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
)

// guestWrite writes as the kernel does: to the bare descriptor.
func guestWrite(t *testing.T, fd int, text string) {
	t.Helper()
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestStreamsShareAFile(t *testing.T) {
	path := t.TempDir() + "/out"
	var s streams
	var fds []int
	for range 2 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := s.give("session", f, false)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	for i := range 100 {
		guestWrite(t, fds[i%2], "line\n")
		s.flush("session")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), "line\n"); n != i+1 {
			t.Fatalf("after line %d was flushed, the file has %d", i+1, n)
		}
	}
	guestWrite(t, fds[0], "last\n")
	s.drain()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(data), "last\n") {
		t.Errorf("the file ends with %q, want what was written before drain", data[len(data)-5:])
	}
}

func TestStreamsPassPipesAsTheyAre(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var s streams
	fd, err := s.give("session", w, false)
	if err != nil {
		t.Fatal(err)
	}
	guestWrite(t, fd, "x")
	unix.Close(fd)
	buffer := make([]byte, 2)
	if n, err := r.Read(buffer); n != 1 || err != nil {
		t.Fatalf("read %d bytes, %v; want 1", n, err)
	}
	if n, _ := r.Read(buffer); n != 0 {
		t.Fatal("the pipe has a second end open")
	}
}

// TestReconnect gives a saved kernel its streams: the container's own to what
// the restoring command has, those of an exec to nowhere.
func TestReconnect(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	extra, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	var s streams
	given := make(givenStreams)
	given.add(RootContainer, []*os.File{null, w, extra}, nil)
	fds, err := s.reconnect(
		[]Session{{Name: RootContainer, FDs: []int{0, 1}}, {Name: execSession(1), FDs: []int{0, 1}}}, given, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) != 4 {
		t.Fatalf("%d streams, want 4", len(fds))
	}
	guestWrite(t, fds[host.MakeResourceID(RootContainer, 1)], "to the command")
	buffer := make([]byte, 64)
	if n, err := r.Read(buffer); err != nil || string(buffer[:n]) != "to the command" {
		t.Errorf("stdout of the container: read %q, %v", buffer[:n], err)
	}
	guestWrite(t, fds[host.MakeResourceID(execSession(1), 1)], "to nobody")
	if n, err := unix.Read(fds[host.MakeResourceID(execSession(1), 0)], buffer); n != 0 || err != nil {
		t.Errorf("stdin of the exec: read %d bytes, %v; want its end", n, err)
	}
	// A kernel that waited on a stream must be able to wait on what takes its
	// place, which the null device cannot do.
	epoll, err := unix.EpollCreate1(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	for id, fd := range fds {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			t.Errorf("stream %v cannot be waited on: %v", id, err)
		}
	}
}

// TestSessionsForgetsWhatTheKernelClosed opens and closes streams as execs do.
func TestSessionsForgetsWhatTheKernelClosed(t *testing.T) {
	var s streams
	open := func(session string) int {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		fd, err := s.give(session, w, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.hold(session, 1, fd); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	open(RootContainer)
	kept := execSession(2)
	open(kept)
	unix.Close(open(execSession(1)))
	open(execSession(3)) // may get the number that was closed
	unix.Close(open(execSession(4)))
	var names []string
	for _, session := range s.sessions(nil) {
		names = append(names, session.Name)
	}
	want := []string{RootContainer, kept, execSession(3)}
	if !slices.Equal(names, want) {
		t.Errorf("sessions are %q, want %q", names, want)
	}
	if n := lastExec([]Session{{Name: kept}, {Name: RootContainer}, {Name: execSession(11)}}); n != 11 {
		t.Errorf("the last exec is %d, want 11", n)
	}
}

// The null device looks the same whoever has it: what gets the number of a closed one, from a call or for another session, is not taken for that.
func TestSessionsTellNullDevicesApart(t *testing.T) {
	null := func() *os.File {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for name, come := range map[string]func(*streams, *os.File){
		"in a call": func(s *streams, f *os.File) { s.forget([]*os.File{f}) },
		"for another session": func(s *streams, f *os.File) {
			if err := s.hold(execSession(2), 1, int(f.Fd())); err != nil {
				t.Fatal(err)
			}
		},
	} {
		var s streams
		first := null()
		number := int(first.Fd())
		if err := s.hold(execSession(1), 0, number); err != nil {
			t.Fatal(err)
		}
		if len(s.sessions(nil)) != 1 {
			t.Errorf("%s: a null device that is open is not held", name)
		}
		other := null()
		first.Close()
		if err := unix.Dup3(int(other.Fd()), number, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		again := os.NewFile(uintptr(number), "again")
		come(&s, again)
		for _, session := range s.sessions(nil) {
			if session.Name == execSession(1) {
				t.Errorf("%s: the null device that was closed is held", name)
			}
		}
		again.Close()
		other.Close()
	}
}
