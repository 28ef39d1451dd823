package inside

import (
	"encoding/binary"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// fakePager is the other end of a reader's socket.
type fakePager struct {
	t      *testing.T
	socket *os.File
}

func newFakePager(t *testing.T) (p fakePager, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p = fakePager{t, os.NewFile(uintptr(fds[0]), "pager")}
	t.Cleanup(func() { p.socket.Close() })
	return p, os.NewFile(uintptr(fds[1]), "reader")
}

// say sends an answer with ranges of pages.
func (p fakePager) say(id uint32, ranges ...[2]uint64) {
	p.t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ranges)))
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r[0]*pages.PageSize)
		b = binary.LittleEndian.AppendUint64(b, r[1]*pages.PageSize)
	}
	if _, err := p.socket.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// hear returns the next request: its ID and ranges of pages.
func (p fakePager) hear() (id uint32, ranges [][2]uint64) {
	p.t.Helper()
	var header [RequestHeaderBytes]byte
	if _, err := io.ReadFull(p.socket, header[:]); err != nil {
		p.t.Fatal(err)
	}
	body := make([]byte, binary.LittleEndian.Uint32(header[4:])*RangeBytes)
	if _, err := io.ReadFull(p.socket, body); err != nil {
		p.t.Fatal(err)
	}
	for ; len(body) > 0; body = body[RangeBytes:] {
		ranges = append(ranges, [2]uint64{
			binary.LittleEndian.Uint64(body) / pages.PageSize, binary.LittleEndian.Uint64(body[8:]) / pages.PageSize,
		})
	}
	return binary.LittleEndian.Uint32(header[:]), ranges
}

func (p fakePager) wantRequest(id uint32, ranges ...[2]uint64) {
	p.t.Helper()
	if gotID, got := p.hear(); gotID != id || !slices.Equal(got, ranges) {
		p.t.Fatalf("request %d for %v, want %d for %v", gotID, got, id, ranges)
	}
}

func read(r stateio.AsyncReader, id int, start, end uint64) {
	fr := memmap.FileRange{Start: start * pages.PageSize, End: end * pages.PageSize}
	r.AddRead(id, 0, int32(3), fr, nil)
}

// wantDone waits for one completion.
func wantDone(t *testing.T, r stateio.AsyncReader, id int) {
	t.Helper()
	done, err := r.Wait(nil, 1)
	if err != nil || len(done) != 1 || done[0].ID != id {
		t.Fatalf("done: %v, %v; want request %d", done, err, id)
	}
}

// A kernel that comes from an image asks for its pages, and has each when that is answered.
func TestReaderAsks(t *testing.T) {
	pager, socket := newFakePager(t)
	r := newPageReader(socket, false, nil)
	read(r, 0, 0, 10)
	read(r, 2, 10, 20)
	pager.wantRequest(0, [2]uint64{0, 10})
	pager.wantRequest(2, [2]uint64{10, 20})
	pager.say(2)
	wantDone(t, r, 2)
	pager.say(0)
	wantDone(t, r, 0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// The loss of the pager is an error, but for a standby that has everything.
func TestReaderWithoutPager(t *testing.T) {
	for name, standby := range map[string]bool{"image": false, "standby": true} {
		pager, socket := newFakePager(t)
		r := newPageReader(socket, standby, nil)
		read(r, 0, 0, 10)
		pager.socket.Close()
		if _, err := r.Wait(nil, 1); err == nil {
			t.Errorf("%s: the loss of the pager was not noticed", name)
		}
	}
	pager, socket := newFakePager(t)
	r := newPageReader(socket, true, nil)
	read(r, 1, 10, 20)
	pager.say(AnswerAll)
	wantDone(t, r, 1)
	pager.socket.Close()
	read(r, 0, 0, 10)
	wantDone(t, r, 0)
}

// An answer to a request that was never made, or was answered, ends the connection.
func TestReaderRefusesAnswers(t *testing.T) {
	for name, answer := range map[string]uint32{"never made": 1, "no such": MaxRequests} {
		pager, socket := newFakePager(t)
		r := newPageReader(socket, false, nil)
		read(r, 0, 0, 10)
		pager.wantRequest(0, [2]uint64{0, 10})
		pager.say(answer)
		if _, err := r.Wait(nil, 1); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	for name, answer := range map[string]uint32{"missing pages": AnswerMissing, "a request": 0} {
		pager, socket := newFakePager(t)
		whole := newPageReader(socket, true, nil)
		read(whole, 0, 0, 10)
		pager.say(answer)
		if _, err := whole.Wait(nil, 1); err == nil {
			t.Errorf("an answer about %s was taken where all pages come at once", name)
		}
	}
}
