package boot

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
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
	// PID is the exec'd process inside, where the streams are a terminal and it has
	// not ended; Terminal is that terminal then.
	PID      int32          `json:"pid,omitempty"`
	Terminal *TerminalState `json:"terminal,omitempty"`
}

// execSession names the streams of the n-th exec in a sandbox's whole life.
func execSession(n int) string { return fmt.Sprintf(execSessionFormat, n) }

const execSessionFormat = RootContainer + "/exec/%d"

// streams hands host files to the guest. Where the kernel cannot use a file as
// it is, it gets a pipe and the bytes are carried between the two here:
//
//   - a regular file would get an offset of its own in the kernel, so that two
//     streams into one file overwrite each other;
//   - on restore, a stream that was a pipe must be something that can be waited
//     on again, and a regular file or the null device is not.
type streams struct {
	mu sync.Mutex
	// pumps drain what the guest writes into files, by session. Guarded by mu.
	pumps map[string][]*pump
	held  map[string][]heldStream // by session; guarded by mu
}

// pump carries what the guest writes into a file.
type pump struct {
	from, to *os.File
	guestEnd int // the kernel's end of the pipe
	done     chan struct{}
	// mu is held from the moment in which bytes leave the pipe until they are in
	// the file.
	mu sync.Mutex
}

// give returns a descriptor, owned by the kernel from now on, that stands for
// f inside. It takes ownership of f. restoring says that the kernel may insist
// on a descriptor that can be waited on.
func (s *streams) give(session string, f *os.File, restoring bool) (int, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return -1, fmt.Errorf("stat stream: %w", err)
	}
	kind := stat.Mode & unix.S_IFMT
	terminal := kind == unix.S_IFCHR && isTerminal(int(f.Fd()))
	if kind == unix.S_IFREG || restoring && kind == unix.S_IFCHR && !terminal {
		return s.pump(session, f)
	}
	return release(f)
}

// pump puts a pipe between f and the guest, in the direction in which f is
// open.
func (s *streams) pump(session string, f *os.File) (int, error) {
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
	guestEnd, err := release(w)
	if err != nil {
		return -1, err
	}
	p := &pump{from: r, to: f, guestEnd: guestEnd, done: make(chan struct{})}
	go p.run()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pumps == nil {
		s.pumps = make(map[string][]*pump)
	}
	s.pumps[session] = append(s.pumps[session], p)
	return guestEnd, nil
}

// run carries until nobody has the guest's end any more, or the file takes no
// more.
func (p *pump) run() {
	defer close(p.done)
	defer p.to.Close()
	defer p.from.Close()
	buffer := make([]byte, 64<<10)
	fd := int(p.from.Fd()) // blocking from here on
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Ppoll(fds, nil, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		p.mu.Lock()
		n, err := p.from.Read(buffer)
		if n > 0 {
			_, err = p.to.Write(buffer[:n])
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// flush makes sure that what the guest has written by now is in the file.
func (p *pump) flush() {
	for {
		select {
		case <-p.done:
			return
		default:
		}
		p.mu.Lock()
		pending, err := unix.IoctlGetInt(int(p.from.Fd()), unix.TIOCINQ)
		p.mu.Unlock()
		if err != nil || pending == 0 {
			return
		}
		runtime.Gosched()
	}
}

// flush makes sure that what the guest has written to a session's streams by
// now is where they lead.
func (s *streams) flush(session string) {
	s.mu.Lock()
	pumps := s.pumps[session]
	s.mu.Unlock()
	for _, p := range pumps {
		p.flush()
	}
}

// drain ends all streams and makes sure that all that the guest wrote has
// reached its file. Call it when no task runs any more, just before the process
// exits: it closes descriptors under the kernel.
func (s *streams) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pumps := range s.pumps {
		for _, p := range pumps {
			select {
			case <-p.done: // the kernel has closed its end; the number may be another's now
				continue
			default:
			}
			unix.Close(p.guestEnd)
			<-p.done
		}
	}
	s.pumps = nil
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

// heldStream is a descriptor that the kernel was given. The kernel closes it
// with the last reference to the file inside; the number may then come back as
// another file, or as the same one again where that is a device: see forget.
type heldStream struct {
	n        int // as seen by the process that was given it
	fd       int
	dev, ino uint64
}

// holdFile remembers a descriptor that the kernel is given.
func holdFile(n, fd int) (heldStream, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return heldStream{}, fmt.Errorf("stat stream: %w", err)
	}
	return heldStream{n, fd, stat.Dev, stat.Ino}, nil
}

// open says whether the kernel still has it.
func (h heldStream) open() bool {
	var stat unix.Stat_t
	return unix.Fstat(h.fd, &stat) == nil && stat.Dev == h.dev && stat.Ino == h.ino
}

// hold remembers a stream of a session until the kernel has closed it.
func (s *streams) hold(session string, n, fd int) error {
	h, err := holdFile(n, fd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetNumber(fd)
	if s.held == nil {
		s.held = make(map[string][]heldStream)
	}
	s.held[session] = append(s.held[session], h)
	return nil
}

// forget notes that the kernel has closed what had the numbers of files that have just come: two of the null device look the same.
func (s *streams) forget(files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		s.forgetNumber(int(f.Fd()))
	}
}

// forgetNumber is forget of one number. The caller holds mu.
func (s *streams) forgetNumber(fd int) {
	for name, held := range s.held {
		s.held[name] = slices.DeleteFunc(held, func(h heldStream) bool { return h.fd == fd })
	}
}

// sessions returns the streams that the kernel still has, by session, and
// forgets the others. pids are the live processes of exec sessions, by name.
func (s *streams) sessions(pids map[string]int32) []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Session
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		session := Session{Name: name, PID: pids[name]}
		s.held[name] = slices.DeleteFunc(s.held[name], func(h heldStream) bool { return !h.open() })
		for _, h := range s.held[name] {
			session.FDs = append(session.FDs, h.n)
			if h.n == 0 && session.PID != 0 {
				session.Terminal = readTerminal(h.fd)
			}
		}
		if session.Terminal == nil {
			session.PID = 0
		}
		if len(session.FDs) == 0 {
			delete(s.held, name)
			continue
		}
		all = append(all, session)
	}
	return all
}

// lastExec returns the highest number of an exec session.
func lastExec(sessions []Session) int {
	last := 0
	for _, s := range sessions {
		var n int
		if _, err := fmt.Sscanf(s.Name, execSessionFormat, &n); err == nil {
			last = max(last, n)
		}
	}
	return last
}

// streamKey names one stream of a session.
type streamKey struct {
	session string
	n       int
}

// givenStreams are files for streams. They belong to whoever has the map.
type givenStreams map[streamKey]*os.File

// add gives a container its standard streams, and preserved from 3 on.
func (g givenStreams) add(container string, stdio, preserved []*os.File) {
	for i, f := range stdio {
		g[streamKey{container, i}] = f
	}
	for i, f := range preserved {
		g[streamKey{container, 3 + i}] = f
	}
}

// reconnect returns, for every host stream that a saved kernel holds, the
// descriptor that takes its place: the given files for the containers' own, a
// terminal for those of execs that one is given for, or else nowhere. It takes
// ownership of the files.
func (s *streams) reconnect(sessions []Session, given givenStreams, ofExecs map[string]*os.File) (map[checkpoint.ResourceID]int, error) {
	fds := make(map[checkpoint.ResourceID]int)
	for _, session := range sessions {
		for _, n := range session.FDs {
			var fd int
			var err error
			key := streamKey{session.Name, n}
			if f := given[key]; f != nil {
				delete(given, key)
				fd, err = s.give(session.Name, f, true)
			} else if f := ofExecs[session.Name]; n == 0 && f != nil {
				delete(ofExecs, session.Name)
				fd, err = release(f)
			} else {
				fd, err = nowhere(n)
			}
			if err != nil {
				return nil, fmt.Errorf("reconnect stream %d of %q: %w", n, session.Name, err)
			}
			if err := s.hold(session.Name, n, fd); err != nil {
				return nil, err
			}
			fds[host.MakeResourceID(session.Name, n)] = fd
		}
	}
	for _, f := range given {
		f.Close() // the saved container had no such stream
	}
	for _, f := range ofExecs {
		f.Close()
	}
	return fds, nil
}
