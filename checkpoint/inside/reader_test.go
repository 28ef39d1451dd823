package inside

import (
	"encoding/binary"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

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

func read(r *pageReader, id int, start, end uint64) {
	fr := memmap.FileRange{Start: start * pages.PageSize, End: end * pages.PageSize}
	r.AddRead(id, 0, int32(3), fr, nil)
}

// wantDone waits for one completion.
func wantDone(t *testing.T, r *pageReader, id int) {
	t.Helper()
	done, err := r.Wait(nil, 1)
	if err != nil || len(done) != 1 || done[0].ID != id {
		t.Fatalf("done: %v, %v; want request %d", done, err, id)
	}
}

// A standby asks for nothing before it knows what is missing, and then only for that.
func TestReaderAsksForWhatIsMissing(t *testing.T) {
	pager, socket := newFakePager(t)
	r := newPageReader(socket, true, false, nil)
	read(r, 0, 0, 10)
	read(r, 1, 10, 20)
	pager.say(AnswerMissing, [2]uint64{15, 16}, [2]uint64{30, 40})
	wantDone(t, r, 0)
	pager.wantRequest(1, [2]uint64{10, 20})
	pager.say(1)
	wantDone(t, r, 1)
	read(r, 0, 10, 30) // 15 has come
	wantDone(t, r, 0)
	if left := r.left(); left != 10 {
		t.Errorf("%d pages are left, want 10", left)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	pager.wantRequest(RequestDone)
	if left := r.left(); left != 0 {
		t.Errorf("%d pages are left of a kernel that has all", left)
	}
}

// A kernel that lost its pager waits for the next, and asks that again. It never has two.
func TestReaderOutlivesItsPager(t *testing.T) {
	first, socket := newFakePager(t)
	r := newPageReader(socket, true, false, nil)
	first.say(AnswerMissing, [2]uint64{0, 100})
	read(r, 2, 0, 10)
	first.wantRequest(2, [2]uint64{0, 10})
	first.say(2)
	wantDone(t, r, 2)
	read(r, 3, 50, 60)
	first.wantRequest(3, [2]uint64{50, 60})

	_, theirs := newFakePager(t)
	if _, err := r.attach(theirs); err == nil {
		t.Fatal("a second pager was taken while there is one")
	}
	first.socket.Close()
	var second fakePager
	var left [][2]uint64
	for {
		var err error
		second, theirs = newFakePager(t)
		if left, err = r.attach(theirs); err == nil {
			break
		}
	}
	if want := [][2]uint64{{10, 100}}; !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
	second.wantRequest(3, [2]uint64{50, 60})
	second.say(3)
	wantDone(t, r, 3)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, theirs = newFakePager(t)
	if left, err := r.attach(theirs); err != nil || len(left) != 0 {
		t.Errorf("a kernel that has all lacks %v, %v", left, err)
	}
}

// Where pages come from an image, or what is missing is not known yet, the loss of the pager is an error; where nothing is missing, it is
// of no interest.
func TestReaderWithoutPager(t *testing.T) {
	for name, standby := range map[string]bool{"image": false, "standby": true} {
		pager, socket := newFakePager(t)
		r := newPageReader(socket, standby, false, nil)
		read(r, 0, 0, 10)
		pager.socket.Close()
		if _, err := r.Wait(nil, 1); err == nil {
			t.Errorf("%s: the loss of the pager was not noticed", name)
		}
		_, theirs := newFakePager(t)
		if _, err := r.attach(theirs); err == nil {
			t.Errorf("%s: another pager was taken", name)
		}
	}
	pager, socket := newFakePager(t)
	r := newPageReader(socket, true, false, nil)
	pager.say(AnswerAll)
	pager.socket.Close()
	read(r, 0, 0, 10)
	wantDone(t, r, 0)
}

// An answer to a request that was never made, or was answered, ends the connection.
func TestReaderRefusesAnswers(t *testing.T) {
	for name, answer := range map[string]uint32{"never made": 1, "no such": MaxRequests} {
		pager, socket := newFakePager(t)
		r := newPageReader(socket, false, false, nil)
		read(r, 0, 0, 10)
		pager.wantRequest(0, [2]uint64{0, 10})
		pager.say(answer)
		if _, err := r.Wait(nil, 1); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	pager, socket := newFakePager(t)
	whole := newPageReader(socket, true, true, nil)
	read(whole, 0, 0, 10)
	pager.say(AnswerMissing, [2]uint64{0, 10})
	if _, err := whole.Wait(nil, 1); err == nil {
		t.Error("missing pages were taken where none may be")
	}
	for name, r := range map[string][2]uint64{"backwards": {5, 4}, "beyond all memory": {0, pages.MaxPages + 1}} {
		pager, socket := newFakePager(t)
		reader := newPageReader(socket, true, false, nil)
		read(reader, 0, 0, 10)
		pager.say(AnswerMissing, r)
		if _, err := reader.Wait(nil, 1); err == nil {
			t.Errorf("missing pages %s were taken", name)
		}
	}
}
