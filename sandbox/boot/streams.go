package boot

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
)

// A Session is a group of host streams that the kernel holds under one name:
// the container's own, or those of one exec. The names are saved with the
// kernel, and every stream must be given again when it is loaded.
type Session struct {
	Name string `json:"name"`
	// FDs are the descriptor numbers, as seen by the process that was given them.
	FDs []int `json:"fds"`
}

// execSession names the streams of the n-th exec in a sandbox's whole life.
func execSession(n int) string { return fmt.Sprintf("%s/exec/%d", RootContainer, n) }

// streams hands host files to the guest. Where the kernel cannot use a file as
// it is, it gets a pipe and the bytes are carried between the two here:
//
//   - a regular file would get an offset of its own in the kernel, so that two
//     streams into one file overwrite each other;
//   - on restore, a stream that was a pipe must be something that can be waited
//     on again, and a regular file or the null device is not.
type streams struct {
	mu sync.Mutex
	// guestEnds are the pipe ends given to the kernel whose other end drains
	// into a file.
	guestEnds []int
	draining  sync.WaitGroup
}

// give returns a descriptor, owned by the kernel from now on, that stands for
// f inside. It takes ownership of f. restoring says that the kernel may insist
// on a descriptor that can be waited on.
func (s *streams) give(f *os.File, restoring bool) (int, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return -1, fmt.Errorf("stat stream: %w", err)
	}
	kind := stat.Mode & unix.S_IFMT
	terminal := kind == unix.S_IFCHR && isTerminal(int(f.Fd()))
	if kind == unix.S_IFREG || restoring && kind == unix.S_IFCHR && !terminal {
		return s.pump(f)
	}
	return release(f)
}

// pump puts a pipe between f and the guest, in the direction in which f is
// open.
func (s *streams) pump(f *os.File) (int, error) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return -1, fmt.Errorf("inspect stream: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return -1, fmt.Errorf("create pipe for stream: %w", err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		go func() {
			defer f.Close()
			defer w.Close()
			carry(w, f) // ends when the guest closes its end
		}()
		return release(r)
	}
	s.draining.Add(1)
	go func() {
		defer s.draining.Done()
		defer f.Close()
		defer r.Close()
		carry(f, r)
	}()
	fd, err := release(w)
	if err == nil {
		s.mu.Lock()
		s.guestEnds = append(s.guestEnds, fd)
		s.mu.Unlock()
	}
	return fd, err
}

// drain makes sure that all that the guest wrote has reached its file. Call it
// when no task runs any more, just before the process exits: it closes
// descriptors under the kernel.
func (s *streams) drain() {
	s.mu.Lock()
	for _, fd := range s.guestEnds {
		unix.Close(fd)
	}
	s.guestEnds = nil
	s.mu.Unlock()
	s.draining.Wait()
}

// nowhere returns a descriptor for a stream whose other end is gone for good:
// reading it ends at once, what is written to it is thrown away.
func nowhere(fd int) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	if fd == 0 {
		w.Close()
		return release(r)
	}
	go carry(io.Discard, r)
	return release(w)
}

// carry copies bytes with read and write alone: the system calls that os.File
// would use to be faster are not allowed in a sandbox process.
func carry(w io.Writer, r io.Reader) {
	io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{r})
}

// release gives up f and returns a descriptor of the same file, owned by the
// caller. (The process never executes another program, so close-on-exec does
// not matter, and dup is what its filter allows.)
func release(f *os.File) (int, error) {
	fd, err := unix.Dup(int(f.Fd()))
	f.Close()
	return fd, err
}

// containerSession is the session of the container's own streams.
func containerSession(stdio, preserved int) Session {
	s := Session{Name: RootContainer}
	for i := range stdio {
		s.FDs = append(s.FDs, i)
	}
	for i := range preserved {
		s.FDs = append(s.FDs, 3+i)
	}
	return s
}

// reconnect returns, for every host stream that a saved kernel holds, the
// descriptor that takes its place: the given files for the container's own,
// nowhere for those of execs. It takes ownership of the files.
func (s *streams) reconnect(sessions []Session, files *Files) (map[checkpoint.ResourceID]int, error) {
	given := make(map[int]*os.File)
	for i, f := range files.Stdio {
		given[i] = f
	}
	for i, f := range files.Preserved {
		given[3+i] = f
	}
	fds := make(map[checkpoint.ResourceID]int)
	for _, session := range sessions {
		for _, n := range session.FDs {
			var fd int
			var err error
			if f := given[n]; session.Name == RootContainer && f != nil {
				delete(given, n)
				fd, err = s.give(f, true)
			} else {
				fd, err = nowhere(n)
			}
			if err != nil {
				return nil, fmt.Errorf("reconnect stream %d of %q: %w", n, session.Name, err)
			}
			fds[host.MakeResourceID(session.Name, n)] = fd
		}
	}
	for _, f := range given {
		f.Close() // the saved container had no such stream
	}
	return fds, nil
}
