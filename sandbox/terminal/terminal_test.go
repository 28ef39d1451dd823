package terminal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lab is a keeper of a terminal whose guest is the test.
type lab struct {
	t     *testing.T
	k     *Keeper
	guest *os.File // slave end
	dir   string
	log   *buffer
}

// buffer can be written to and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) await(t *testing.T, what string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(b.String(), what); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never shown: %q, but %q", what, b.String())
		}
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	modes, err := unix.IoctlGetTermios(int(slave), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	modes.Oflag &^= unix.OPOST
	modes.Lflag &^= unix.ECHO | unix.ICANON
	if err := unix.IoctlSetTermios(int(slave), unix.TCSETS, modes); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, guest: os.NewFile(slave, "slave"), dir: t.TempDir(), log: &buffer{}}
	l.k = Keep(os.NewFile(uintptr(master), "master"), l.log)
	listener, err := Listen(l.dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	go l.k.Serve(listener)
	t.Cleanup(func() {
		listener.Close()
		l.guest.Close()
	})
	return l
}

func (l *lab) write(text string) {
	l.t.Helper()
	if _, err := l.guest.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
}

// sitter is somebody attached.
type sitter struct {
	out    buffer
	keys   *io.PipeWriter
	status int
	err    error
	ended  chan struct{}
}

func (l *lab) sit(sizes <-chan unix.Winsize) *sitter {
	l.t.Helper()
	conn, err := Dial(l.dir, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	in, keys := io.Pipe()
	s := &sitter{keys: keys, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.status, s.err = Attach(conn, AttachOptions{In: in, Out: &s.out, DetachKeys: []byte{16, 17}, Sizes: sizes})
	}()
	l.t.Cleanup(func() { keys.Close() })
	return s
}

func (s *sitter) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		t.Fatal("attach does not end")
	}
}

func TestAttach(t *testing.T) {
	l := newLab(t)
	l.write("early ")
	l.log.await(t, "early")
	sizes := make(chan unix.Winsize, 1)
	sizes <- unix.Winsize{Row: 44, Col: 111}
	first := l.sit(sizes)
	first.out.await(t, "early ")
	first.keys.Write([]byte("typed"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(l.guest, got); err != nil || string(got) != "typed" {
		t.Fatalf("guest reads %q, %v", got, err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		size, err := unix.IoctlGetWinsize(int(l.guest.Fd()), unix.TIOCGWINSZ)
		if err == nil && size.Row == 44 && size.Col == 111 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("size is %+v, %v", size, err)
		}
	}
	first.keys.Write([]byte{16, 17})
	first.wait(t)
	if !errors.Is(first.err, ErrDetached) {
		t.Fatalf("detached with %v", first.err)
	}

	// The next sees what came meanwhile, and nothing twice.
	l.awaitAlone()
	l.write("late ")
	l.log.await(t, "late")
	second := l.sit(nil)
	second.out.await(t, "late ")
	if second.out.String() != "late " {
		t.Errorf("the second is shown %q", second.out.String())
	}
	third := l.sit(nil)
	second.wait(t)
	if !errors.Is(second.err, ErrEnded) || !strings.Contains(second.err.Error(), "somebody else") {
		t.Errorf("who was taken over from is told %v", second.err)
	}
	l.write("last")
	l.guest.Close()
	l.k.Finish(7, nil)
	third.wait(t)
	if third.err != nil || third.status != 7 || third.out.String() != "last" {
		t.Errorf("it ended with %d, %v, and %q", third.status, third.err, third.out.String())
	}
	if want := "early late last"; l.log.String() != want {
		t.Errorf("log has %q, want %q", l.log.String(), want)
	}
}

// awaitHeld waits until what is held ends with text.
func (l *lab) awaitHeld(text string) {
	l.t.Helper()
	l.until("what is held does not end with "+text, func() bool { return strings.HasSuffix(string(l.k.held), text) })
}

// awaitAlone waits until the keeper has noticed that nobody is attached.
func (l *lab) awaitAlone() {
	l.t.Helper()
	l.until("somebody stays attached", func() bool { return l.k.person == nil })
}

// until waits for a state of the keeper, which done looks at with the keeper's lock held.
func (l *lab) until(otherwise string, done func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		l.k.mu.Lock()
		is := done()
		l.k.mu.Unlock()
		if is {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatal(otherwise)
		}
	}
}

// A guest that nobody watches writes on, and the newest of it is held.
func TestHeldIsBounded(t *testing.T) {
	l := newLab(t)
	l.write("oldest ")
	for range 40 {
		l.write(strings.Repeat("x", 4<<10))
	}
	l.write(" newest")
	l.awaitHeld(" newest") // it is in the log a moment earlier
	s := l.sit(nil)
	s.out.await(t, " newest")
	if got := s.out.String(); len(got) != MaxHeldBytes || strings.Contains(got, "oldest") {
		t.Errorf("%d bytes are held, want the newest %d", len(got), MaxHeldBytes)
	}
}

// A guest that does not read does not keep anybody from leaving, or from taking over.
func TestTypingToAGuestThatDoesNotRead(t *testing.T) {
	l := newLab(t)
	s := l.sit(nil)
	go s.keys.Write(bytes.Repeat([]byte("x"), 1<<20))
	time.Sleep(10 * time.Millisecond)
	next := l.sit(nil)
	s.wait(t)
	l.write("hello")
	next.out.await(t, "hello")
}

func TestNobodyKeepsIt(t *testing.T) {
	if _, err := Dial(t.TempDir(), 12); !errors.Is(err, ErrNone) {
		t.Errorf("dialling nobody: %v", err)
	}
}

func TestDetectDetachKeys(t *testing.T) {
	for _, c := range []struct {
		keys, in, typed string
		detach          bool
	}{
		{"", "abc", "abc", false},
		{"pq", "abc", "abc", false},
		{"pq", "apqb", "a", true},
		{"pq", "appq", "ap", true},
		{"pq", "apbq", "apbq", false},
		{"aab", "aaab", "a", true},
		{"aab", "aaxaab", "aax", true},
		{"abab", "abacabab", "abac", true},
		{"pq", "ap", "a", false},
	} {
		for _, split := range []int{0, 1, 2} { // typed at once, and in pieces
			d := detector{keys: []byte(c.keys)}
			var typed []byte
			detach := false
			for _, part := range [][]byte{[]byte(c.in[:min(split, len(c.in))]), []byte(c.in[min(split, len(c.in)):])} {
				if !detach {
					var more []byte
					more, detach = d.feed(part)
					typed = append(typed, more...)
				}
			}
			if string(typed) != c.typed || detach != c.detach {
				t.Errorf("%q with keys %q: typed %q, detach %v, want %q, %v", c.in, c.keys, typed, detach, c.typed, c.detach)
			}
		}
	}
}

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{"": "", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-a,d": "\x01d", ",": ",", "ctrl-@": "\x00", "ctrl-]": "\x1d"} {
		if got, err := ParseKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "ab", "a,", strings.Repeat("a,", 16) + "a"} {
		if got, err := ParseKeys(text); err == nil {
			t.Errorf("%q is understood as %q", text, got)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, c := range []frame{{kindData, []byte("typed")}, {kindSize, []byte{24, 0, 80, 0}}, {kindExit, []byte{7, 0, 0, 0}}, {kindEnded, nil}} {
		var b bytes.Buffer
		writeFrame(&b, c.kind, c.payload)
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		got, err := readFrame(r)
		if err != nil {
			return
		}
		var again bytes.Buffer
		writeFrame(&again, got.kind, got.payload)
		if !bytes.Equal(again.Bytes(), data[:len(data)-r.Len()]) {
			t.Errorf("%x was read as %+v", data, got)
		}
	})
}
