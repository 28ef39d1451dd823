package terminal

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxHeldBytes is how much of what a guest writes waits while nobody is attached.
// The oldest goes first.
const MaxHeldBytes = 64 << 10

// Patience with whoever is attached, and with the last output of a process that
// has ended where something else inside keeps its terminal open.
const (
	readerPatience = 10 * time.Second
	outputGrace    = 200 * time.Millisecond
	// typingInterval is how often a keeper that waits for the guest to take what was
	// typed looks whether whoever typed it is still there.
	typingInterval = time.Second
)

// A Keeper keeps one terminal.
type Keeper struct {
	master  *os.File // can be given deadlines
	log     io.Writer
	drained chan struct{} // closed when all output has been read

	mu sync.Mutex
	// person is who is attached, nil for nobody. Guarded by mu, as is everything below.
	person *net.UnixConn
	held   []byte // what the next person is shown first
	over   bool   // the process has ended
}

// Keep begins to keep the terminal with the given master end, which can be given
// deadlines and belongs to the keeper from then on. What the guest writes goes into log
// as well.
func Keep(master *os.File, log io.Writer) *Keeper {
	k := &Keeper{master: master, log: log, drained: make(chan struct{})}
	go k.carryOutput()
	return k
}

// Serve lets people attach until l is closed.
func (k *Keeper) Serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		if k.attach(conn) {
			go k.carryInput(conn)
		}
	}
}

// attach makes conn the one that is attached, in the place of any other.
func (k *Keeper) attach(conn *net.UnixConn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		conn.Close()
		return false
	}
	if k.person != nil {
		k.sendLocked(kindEnded, []byte("somebody else has attached to the terminal"))
		k.leaveLocked()
	}
	k.person = conn
	held := k.held
	k.held = nil
	k.showLocked(held)
	return true
}

// Finish shows the last output of a process that has ended, with its exit status or
// why that is not known, and lets go of the terminal.
func (k *Keeper) Finish(status int, err error) {
	k.master.SetReadDeadline(time.Now().Add(outputGrace))
	<-k.drained
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if err != nil {
		text := err.Error()
		k.sendLocked(kindEnded, []byte(text[:min(len(text), MaxFrameBytes)]))
	} else {
		k.sendLocked(kindExit, binary.LittleEndian.AppendUint32(nil, uint32(status)))
	}
	k.leaveLocked()
	k.master.Close()
}

// carryOutput reads until no process inside has the terminal any more.
func (k *Keeper) carryOutput() {
	defer close(k.drained)
	buffer := make([]byte, MaxFrameBytes)
	for {
		n, err := k.master.Read(buffer)
		if n > 0 {
			if k.log != nil {
				if _, logErr := k.log.Write(buffer[:n]); logErr != nil {
					k.log = nil // the guest must not wait for a disk that is full
				}
			}
			k.mu.Lock()
			k.showLocked(buffer[:n])
			k.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// showLocked shows b to who is attached, or holds it. One who does not read any
// more is let go.
//
// Preconditions: k.mu is held.
func (k *Keeper) showLocked(b []byte) {
	for len(b) > 0 && k.person != nil {
		n := min(len(b), MaxFrameBytes)
		if !k.sendLocked(kindData, b[:n]) {
			break
		}
		b = b[n:]
	}
	k.held = append(k.held, b...)
	if more := len(k.held) - MaxHeldBytes; more > 0 {
		k.held = append([]byte(nil), k.held[more:]...)
	}
}

// sendLocked says whether who is attached has taken a frame.
//
// Preconditions: k.mu is held.
func (k *Keeper) sendLocked(kind kind, payload []byte) bool {
	if k.person == nil {
		return false
	}
	k.person.SetWriteDeadline(time.Now().Add(readerPatience))
	if err := writeFrame(k.person, kind, payload); err != nil {
		k.leaveLocked()
		return false
	}
	return true
}

// Preconditions: k.mu is held.
func (k *Keeper) leaveLocked() {
	if k.person != nil {
		k.person.Close()
		k.person = nil
	}
}

// carryInput carries what a person types, until that one is not attached any more.
func (k *Keeper) carryInput(conn *net.UnixConn) {
	defer func() {
		conn.Close() // before the lock: somebody may be showing it something
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.person == conn {
			k.person = nil
		}
	}()
	for {
		f, err := readFrame(conn)
		if err != nil {
			return
		}
		switch f.kind {
		case kindData:
			if !k.typeIn(conn, f.payload) {
				return
			}
		case kindSize:
			size := &unix.Winsize{Row: binary.LittleEndian.Uint16(f.payload), Col: binary.LittleEndian.Uint16(f.payload[2:])}
			k.resize(size)
		default:
			return
		}
	}
}

// typeIn gives the guest what conn has typed. A guest that does not read makes it
// wait, as long as conn is the one that is attached.
func (k *Keeper) typeIn(conn *net.UnixConn, b []byte) bool {
	for len(b) > 0 {
		k.master.SetWriteDeadline(time.Now().Add(typingInterval))
		n, err := k.master.Write(b)
		b = b[n:]
		if err == nil {
			continue
		}
		k.mu.Lock()
		attached := k.person == conn
		k.mu.Unlock()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !attached {
			return false
		}
	}
	return true
}

func (k *Keeper) resize(size *unix.Winsize) {
	raw, err := k.master.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
}
