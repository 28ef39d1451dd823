package faults

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const pageBytes = 4096

// trapped maps pages of a new memory file and traps them.
func trapped(t *testing.T, pages int) (memory []byte, file *os.File, trap *Trap, h *Handler) {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file = os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(pages) * pageBytes); err != nil {
		t.Fatal(err)
	}
	memory, err = unix.Mmap(fd, 0, pages*pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(memory) })
	device, err := OpenDevice()
	if err != nil {
		t.Fatalf("this test needs root and Linux 6.1: %v", err)
	}
	defer device.Close()
	const number = 900
	if trap, err = NewTrap(device, number); err != nil {
		t.Fatal(err)
	}
	if err := trap.Watch(addressOf(memory), uintptr(len(memory))); err != nil {
		t.Fatal(err)
	}
	if h, err = NewHandler(os.NewFile(uintptr(dup(t, trap.FD())), "given")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return memory, file, trap, h
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	d, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func page(fill byte) []byte { return bytes.Repeat([]byte{fill}, pageBytes) }

// wantFault waits for an access to a page.
func wantFault(t *testing.T, h *Handler, memory []byte, number int) uint64 {
	t.Helper()
	addr := uint64(addressOf(memory)) + uint64(number*pageBytes)
	got, err := h.Next()
	if err != nil || len(got) != 1 || got[0]&^(pageBytes-1) != addr {
		t.Fatalf("faults at %#x, %v; want one at %#x", got, err, addr)
	}
	return addr
}

// The host's kernel waits for pages too, as in a write(2) from a buffer. (An access by this process itself would keep its Go
// runtime from doing what ends it.)
func TestAccessWaitsForItsPage(t *testing.T) {
	memory, _, trap, h := trapped(t, 4)
	defer trap.Close()
	for number, fill := range []byte{7, 0} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		go unix.Write(int(w.Fd()), memory[number*pageBytes:][:16])
		addr := wantFault(t, h, memory, number)
		if fill == 0 {
			err = h.Zero(addr, pageBytes)
		} else {
			_, err = h.Copy(addr, page(fill))
		}
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16)
		if _, err := r.Read(got); err != nil || got[0] != fill {
			t.Errorf("page %d: read %v, %v; want %d", number, got, err, fill)
		}
	}
}

// What is there is not changed, whoever put it there, and those who wait for it go on.
func TestNothingIsPlacedTwice(t *testing.T) {
	memory, file, trap, h := trapped(t, 4)
	defer trap.Close()
	base := uint64(addressOf(memory))
	if _, err := file.WriteAt(page(9), 2*pageBytes); err != nil {
		t.Fatal(err)
	}
	done, err := h.Copy(base, bytes.Repeat(page(7), 4))
	if done != 2*pageBytes || !errors.Is(err, ErrPresent) {
		t.Errorf("copied %d bytes, %v; want two pages, %v", done, err, ErrPresent)
	}
	if err := h.Zero(base+2*pageBytes, pageBytes); !errors.Is(err, ErrPresent) {
		t.Errorf("a page over one that is there: %v, want %v", err, ErrPresent)
	}
	if want := append(bytes.Repeat(page(7), 2), page(9)...); !bytes.Equal(memory[:3*pageBytes], want) {
		t.Error("memory is not what was put there")
	}
}

// A trap that is closed lets everybody go on. Its handler is told.
func TestCloseLetsGo(t *testing.T) {
	memory, _, trap, h := trapped(t, 2)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	go unix.Write(int(w.Fd()), memory[:1])
	addr := wantFault(t, h, memory, 0)
	if err := trap.Close(); err != nil {
		t.Fatal(err)
	}
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatalf("who waited still waits: %v", err)
	}
	if _, err := h.Copy(addr+pageBytes, page(1)); !errors.Is(err, ErrGone) {
		t.Errorf("a page into what is not trapped: %v, want %v", err, ErrGone)
	}
}

// A handler is made of nothing but a userfaultfd.
func TestHandlerRefusesOtherFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := NewHandler(r); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("a pipe was taken for a userfaultfd: %v", err)
	}
}
