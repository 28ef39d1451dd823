package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// numberedPages is a page source whose page n is filled with byte n, and that
// does not have the page missing.
type numberedPages struct{ missing uint64 }

var errNoPage = errors.New("no such page")

func (s numberedPages) ReadPages(_ image.FileID, first uint64, dst []byte) error {
	for i := range len(dst) / page {
		if first+uint64(i) == s.missing {
			return errNoPage
		}
		copy(dst[i*page:], bytes.Repeat([]byte{byte(first) + byte(i)}, page))
	}
	return nil
}

const servedBytes = 256 * page

// startServer serves pages into a new memory file. The socket is the sandbox's
// end.
func startServer(t *testing.T, source pageSource) (memory, socket *os.File, served chan error) {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	memory = os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { memory.Close() })
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	server := &pageServer{source: source, memory: memory, memoryBytes: servedBytes, socket: ours}
	served = make(chan error, 1)
	go func() { served <- server.serve(2) }()
	return memory, theirs, served
}

func request(id uint32, ranges ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ranges)))
	return append(b, bytes.Join(ranges, nil)...)
}

func TestServePlacesPages(t *testing.T) {
	memory, socket, served := startServer(t, numberedPages{missing: 1 << 40})
	socket.Write(request(3, record(16*page, 18*page), record(40*page, 41*page)))
	answer := make([]byte, inside.RequestHeaderBytes)
	if _, err := io.ReadFull(socket, answer); err != nil {
		t.Fatal(err)
	}
	if id := binary.LittleEndian.Uint32(answer); id != 3 {
		t.Errorf("request %d was answered, want 3", id)
	}
	for _, n := range []int64{16, 17, 40} {
		got := make([]byte, page)
		if _, err := memory.ReadAt(got, n*page); err != nil {
			t.Fatal(err)
		}
		if want := bytes.Repeat([]byte{byte(n)}, page); !bytes.Equal(got, want) {
			t.Errorf("page %d has byte %d, want %d", n, got[0], n)
		}
	}
	socket.Close()
	if err := <-served; err != nil {
		t.Errorf("a hang-up is the end, got %v", err)
	}
}

// TestServeRefuses sends what no honest sandbox does: the connection must end,
// with an error, and without an answer.
func TestServeRefuses(t *testing.T) {
	tooMany := make([][]byte, inside.MaxRequestRanges+1)
	for i := range tooMany {
		tooMany[i] = record(16*page, 17*page)
	}
	for name, bytes := range map[string][]byte{
		"unknown request":   request(inside.MaxRequests, record(16*page, 17*page)),
		"no range":          request(0),
		"too many ranges":   request(0, tooMany...),
		"outside of memory": request(0, record(servedBytes, servedBytes+page)),
		"too much":          request(0, record(0, inside.MaxRequestBytes+page)),
		"half a page":       request(0, record(0, page/2)),
	} {
		_, socket, served := startServer(t, numberedPages{missing: 1 << 40})
		socket.Write(bytes)
		if n, err := socket.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: got an answer", name)
		}
		if err := <-served; !errors.Is(err, ErrSandbox) {
			t.Errorf("%s: got %v, want ErrSandbox", name, err)
		}
	}
}

func TestServeEndsWhereAPageIsMissing(t *testing.T) {
	_, socket, served := startServer(t, numberedPages{missing: 20})
	socket.Write(request(0, record(20*page, 21*page)))
	if n, err := socket.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("a request for a page that cannot be had was answered")
	}
	if err := <-served; !errors.Is(err, errNoPage) {
		t.Errorf("got %v, want the source's error", err)
	}
}

// A restore whose pages are still on their way ends when its context does, although the kernel would wait for ever.
func TestAwaitEndsWithItsContext(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	r := &Restoring{server: &pageServer{source: numberedPages{}, memoryBytes: servedBytes, socket: ours}, served: make(chan error, 1)}
	go func() { r.served <- r.server.serve(2) }()
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	ended := make(chan error, 1)
	go func() { ended <- r.await(ctx) }()
	cancel(interrupted)
	if err := <-ended; !errors.Is(err, interrupted) {
		t.Fatal(err)
	}
	if n, err := theirs.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the kernel is not told: %d, %v", n, err)
	}
}
