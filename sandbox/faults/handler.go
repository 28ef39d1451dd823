package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrPresent says that a page is there already. It was not changed.
	ErrPresent = errors.New("page is there already")
	// ErrGone says that the sandbox has ended, or its trap.
	ErrGone = errors.New("memory is no longer trapped")
)

// Handler is the pager's end of a trap. Its methods may be called concurrently.
type Handler struct {
	file *os.File
	conn syscall.RawConn // of file
}

// NewHandler makes a handler of a descriptor that a sandbox says is its trap's, which
// the caller closes. A sandbox process is not trusted: what it gives may be anything.
func NewHandler(given *os.File) (*Handler, error) {
	// File.Fd makes a descriptor wait in the kernel; Next is to wait in Go's poller.
	fd, err := unix.FcntlInt(given.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep userfaultfd: %w", err)
	}
	kind, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || kind != "anon_inode:[userfaultfd]" {
		unix.Close(fd)
		return nil, fmt.Errorf("sandbox gave %q for a userfaultfd: %w", kind, errors.Join(err, os.ErrInvalid))
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	h := &Handler{file: os.NewFile(uintptr(fd), "userfaultfd")}
	if h.conn, err = h.file.SyscallConn(); err != nil {
		h.file.Close()
		return nil, err
	}
	return h, nil
}

const (
	messageBytes = 32 // struct uffd_msg
	// maxFaults is how many faults are read at a time.
	maxFaults      = 64
	eventPagefault = 0x12
	// addressOffset is where the address is in a message.
	addressOffset = 16
)

// Next waits for accesses to missing pages, and returns their addresses. The error is os.ErrClosed after Close.
func (h *Handler) Next() ([]uint64, error) {
	buffer := make([]byte, maxFaults*messageBytes)
	for {
		n, err := h.file.Read(buffer)
		if err != nil {
			return nil, fmt.Errorf("read page faults: %w", err)
		}
		var addresses []uint64
		for messages := buffer[:n]; len(messages) >= messageBytes; messages = messages[messageBytes:] {
			if messages[0] == eventPagefault {
				addresses = append(addresses, binary.LittleEndian.Uint64(messages[addressOffset:]))
			}
		}
		if len(addresses) > 0 {
			return addresses, nil
		}
	}
}

// Copy puts pages into holes and lets those go on that wait for them. It returns
// how many bytes it has put there before an error.
func (h *Handler) Copy(addr uint64, data []byte) (done int, err error) {
	for done < len(data) {
		err := h.control(func(fd int) error {
			n, err := copyTo(fd, addr+uint64(done), data[done:])
			done += n
			return err
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Zero puts a page of zeros into a hole. Whoever waits for the page goes on,
// whether or not it was one.
func (h *Handler) Zero(addr, pageBytes uint64) error {
	for done := false; !done; {
		err := h.control(func(fd int) error {
			n, err := zero(fd, addr, pageBytes)
			done = n > 0
			return err
		})
		if err != nil {
			h.Wake(addr, pageBytes)
			return err
		}
	}
	return nil
}

// Wake lets those look again that wait for a page in a range.
func (h *Handler) Wake(addr, bytes uint64) error {
	return h.control(func(fd int) error { return wake(fd, addr, bytes) })
}

// control does something with the descriptor. The error is nil also for what is to
// be tried again.
func (h *Handler) control(do func(fd int) error) error {
	var err error
	if connErr := h.conn.Control(func(fd uintptr) { err = do(int(fd)) }); connErr != nil {
		return connErr
	}
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case errors.Is(err, unix.EEXIST):
		return ErrPresent
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT):
		return ErrGone
	}
	return fmt.Errorf("place pages in the sandbox's mapping: %w", err)
}

// Close gives the descriptor up. Accesses that wait go on waiting, as the sandbox
// has it too. It does not wait for Next: a hostile sandbox can make that block.
func (h *Handler) Close() { go h.file.Close() }
