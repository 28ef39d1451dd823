package inside

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// testPages is the size of the memory of these tests.
const testPages = 64

// fakeFrames is a memory file that counts references.
type fakeFrames struct {
	file    *os.File
	mapping []byte

	mu   sync.Mutex
	refs [testPages]int // guarded by mu
}

// newFakeFrames makes a memory file whose frames are in use below used.
func newFakeFrames(t *testing.T, used int) *fakeFrames {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeFrames{file: os.NewFile(uintptr(fd), "memory")}
	t.Cleanup(func() { f.file.Close() })
	if err := f.file.Truncate(testPages * pages.PageSize); err != nil {
		t.Fatal(err)
	}
	f.mapping, err = unix.Mmap(fd, 0, testPages*pages.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(f.mapping) })
	for n := range used {
		f.refs[n] = 1
	}
	return f
}

func (f *fakeFrames) add(fr memmap.FileRange, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for page := fr.Start / pages.PageSize; page < fr.End/pages.PageSize; page++ {
		if f.refs[page] == 0 {
			panic("a frame that is not in use")
		}
		f.refs[page] += n
	}
}

func (f *fakeFrames) IncRef(fr memmap.FileRange, _ uint32) { f.add(fr, 1) }
func (f *fakeFrames) DecRef(fr memmap.FileRange)           { f.add(fr, -1) }
func (f *fakeFrames) MapInternal(fr memmap.FileRange, _ hostarch.AccessType) (safemem.BlockSeq, error) {
	return safemem.BlockSeqOf(safemem.BlockFromSafeSlice(f.mapping[fr.Start:fr.End])), nil
}

// kept returns the pages that have a reference more.
func (f *fakeFrames) kept() (list []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for page, n := range f.refs {
		if n > 1 {
			list = append(list, page)
		}
	}
	return list
}

// loading is a kernel that is loaded, and what it did.
type loading struct {
	*arrivals
	memory *fakeFrames
	await  func(start, end uint64)
	ended  chan struct{}
}

func newLoading(t *testing.T, socket *os.File, trap *faults.Trap) *loading {
	t.Helper()
	l := &loading{memory: newFakeFrames(t, 40), ended: make(chan struct{})}
	l.arrivals = newArrivals(socket, l.memory, trap, func(await func(start, end uint64)) { l.await = await }, func() { close(l.ended) })
	if _, err := l.RegisterDestinationFD(3, testPages*pages.PageSize, nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func newTrap(t *testing.T) *faults.Trap {
	t.Helper()
	device, err := faults.OpenDevice()
	if err != nil {
		t.Fatalf("this test needs root and Linux 6.1: %v", err)
	}
	defer device.Close()
	const number = 901
	trap, err := faults.NewTrap(device, number)
	if err != nil {
		t.Fatal(err)
	}
	return trap
}

// With a trap the kernel has all of its pages at once; what is missing keeps its frame until it has come, is waited for by
// mappings, and by accesses.
func TestArrivalsWithTrap(t *testing.T) {
	pager, socket := newFakePager(t)
	trap := newTrap(t)
	fd, err := unix.Dup(trap.FD())
	if err != nil {
		t.Fatal(err)
	}
	given := os.NewFile(uintptr(fd), "given")
	handler, err := faults.NewHandler(given)
	if err != nil {
		t.Fatal(err)
	}
	given.Close()
	defer handler.Close()
	l := newLoading(t, socket, trap)
	read(l, 0, 0, 40)
	pager.say(AnswerMissing, [2]uint64{10, 12}, [2]uint64{30, 31})
	wantDone(t, l, 0)
	if err := l.prepared(); err != nil {
		t.Fatal(err)
	}
	id, mapped := pager.hear()
	base := mapped[0][0] * pages.PageSize
	if id != RequestMapped || mapped[0][1]-mapped[0][0] != testPages {
		t.Fatalf("request %d for %v, want the addresses of %d pages", id, mapped, testPages)
	}
	if kept := l.memory.kept(); !slices.Equal(kept, []int{10, 11, 30}) || l.left() != 3 {
		t.Errorf("kept are %v, want all that is missing; %d are left", kept, l.left())
	}

	mappedAll := make(chan struct{})
	go func() {
		l.await(0, 10) // nothing of it is missing
		l.await(8, 11)
		close(mappedAll)
	}()
	pager.wantRequest(RequestNeed, [2]uint64{10, 11})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	go unix.Write(int(w.Fd()), l.memory.mapping[30*pages.PageSize:][:1]) // an access by the host's kernel
	if got, err := handler.Next(); err != nil || got[0] != base+30*pages.PageSize {
		t.Fatalf("faults %#x, %v; want one on page 30", got, err)
	}
	place := func(page uint64, fill byte) {
		t.Helper()
		if _, err := handler.Copy(base+page*pages.PageSize, bytes.Repeat([]byte{fill}, pages.PageSize)); err != nil {
			t.Fatal(err)
		}
		pager.say(AnswerPlaced, [2]uint64{page, page + 1})
	}
	place(30, 7)
	got := make([]byte, 1)
	if _, err := r.Read(got); err != nil || got[0] != 7 {
		t.Errorf("the access gets %v, %v; want the page that came", got, err)
	}
	place(10, 8)
	<-mappedAll
	place(11, 9)
	pager.wantRequest(RequestDone)
	<-l.ended
	if kept := l.memory.kept(); kept != nil {
		t.Errorf("pages %v have come and are kept still", kept)
	}
	if l.memory.mapping[50*pages.PageSize] != 0 { // would wait for ever
		t.Error("a hole is not zero")
	}
}

// Without a trap the kernel is given what has come, and waits for the rest.
func TestArrivalsWithoutTrap(t *testing.T) {
	pager, socket := newFakePager(t)
	l := newLoading(t, socket, nil)
	read(l, 0, 0, 10)
	read(l, 1, 10, 20)
	pager.say(AnswerMissing, [2]uint64{15, 17}, [2]uint64{30, 32})
	wantDone(t, l, 0)
	pager.wantRequest(RequestNeed, [2]uint64{15, 17})
	pager.say(AnswerPlaced, [2]uint64{15, 16}, [2]uint64{30, 31})
	pager.say(AnswerPlaced, [2]uint64{16, 17})
	wantDone(t, l, 1)
	read(l, 2, 20, 31) // 30 has come, and was kept until then
	wantDone(t, l, 2)
	if kept := l.memory.kept(); !slices.Equal(kept, []int{31}) || l.left() != 1 {
		t.Errorf("kept are %v, want what is missing still; %d are left", kept, l.left())
	}
	pager.say(AnswerPlaced, [2]uint64{31, 32})
	pager.wantRequest(RequestDone)
	<-l.ended
	if l.left() != 0 {
		t.Error("something is left of a kernel that has all")
	}
}

// A kernel that lost its pager waits for the next, and tells that what is left and what is waited for. It never has two.
func TestArrivalsOutliveTheirPager(t *testing.T) {
	first, socket := newFakePager(t)
	l := newLoading(t, socket, nil)
	first.say(AnswerMissing, [2]uint64{0, 40})
	if err := l.prepared(); err != nil {
		t.Fatal(err)
	}
	first.say(AnswerPlaced, [2]uint64{0, 10})
	waited := make(chan struct{})
	go func() {
		l.arrivals.await(20, 24)
		close(waited)
	}()
	first.wantRequest(RequestNeed, [2]uint64{20, 24})
	_, theirs := newFakePager(t)
	if _, _, err := l.attach(theirs); err == nil {
		t.Fatal("a second pager was taken while there is one")
	}
	first.socket.Close()
	var second fakePager
	var left [][2]uint64
	eventually(t, func() bool {
		var err error
		second, theirs = newFakePager(t)
		left, _, err = l.attach(theirs)
		return err == nil
	})
	if want := [][2]uint64{{10, 40}}; !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
	second.wantRequest(RequestNeed, [2]uint64{20, 24})
	second.say(AnswerPlaced, [2]uint64{10, 40})
	<-waited
	second.wantRequest(RequestDone)
	<-l.ended
	_, theirs = newFakePager(t)
	if left, _, err := l.attach(theirs); err != nil || len(left) != 0 {
		t.Errorf("a kernel that has all lacks %v, %v", left, err)
	}
}

// Who asks a kernel that came from another host what is left, is told that nothing is, where all came before its start. One from an image
// is not asked.
func TestNothingIsLeftOfAWholeKernel(t *testing.T) {
	defer arriving.Store(arriving.Load())
	for _, standby := range []bool{false, true} {
		arriving.Store(nil)
		_, socket := newFakePager(t)
		if _, missing := newReader(&boot.Loading{}, socket, standby, standby); missing != nil {
			t.Fatal("something may be missing of a kernel that has all")
		}
		a := arriving.Load()
		if !standby {
			if a != nil {
				t.Error("a kernel from an image is waited for by nobody")
			}
			continue
		}
		_, theirs := newFakePager(t)
		if left, _, err := a.attach(theirs); err != nil || len(left) != 0 || findArriving() != nil {
			t.Errorf("a kernel that has all lacks %v, %v, %v", left, err, findArriving())
		}
	}
}

// A standby to which nothing is missing after all needs nobody.
func TestArrivalsOfAll(t *testing.T) {
	pager, socket := newFakePager(t)
	l := newLoading(t, socket, newTrap(t))
	read(l, 0, 0, 40)
	pager.say(AnswerAll)
	wantDone(t, l, 0)
	pager.socket.Close()
	if err := l.prepared(); err != nil || l.left() != 0 || l.memory.kept() != nil {
		t.Errorf("%v; %d are left, %v kept", err, l.left(), l.memory.kept())
	}
}

// What a pager says that makes no sense is not taken, and a kernel that does not know what is missing fails.
func TestArrivalsRefuse(t *testing.T) {
	for name, r := range map[string][2]uint64{
		"backwards": {5, 4}, "beyond all memory": {0, pages.MaxPages + 1}, "of frames that are not in use": {38, 42},
	} {
		pager, socket := newFakePager(t)
		l := newLoading(t, socket, nil)
		read(l, 0, 0, 10)
		pager.say(AnswerMissing, r)
		if _, err := l.Wait(nil, 1); err == nil {
			t.Errorf("missing pages %s were taken", name)
		}
		if err := l.prepared(); err == nil {
			t.Errorf("missing pages %s: tasks may run", name)
		}
	}
	pager, socket := newFakePager(t)
	l := newLoading(t, socket, nil)
	pager.socket.Close()
	if err := l.prepared(); err == nil {
		t.Error("tasks may run of a kernel that does not know what is missing")
	}
	_, theirs := newFakePager(t)
	if _, _, err := l.attach(theirs); err == nil {
		t.Error("another pager was taken")
	}
}

// However scattered a set is, what covers it holds all of it in as few pieces as allowed.
func TestCover(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 5, 40, 300} {
		set := &pages.Set{}
		for range n {
			start := rng.Uint64N(5000)
			set.AddRange(start, start+1+rng.Uint64N(3))
		}
		for _, limit := range []int{1, 2, 16, 1000} {
			spans := cover(set, limit)
			if len(spans) > limit {
				t.Errorf("%d pieces, at most %d", len(spans), limit)
			}
			rest := set.Clone()
			for i, s := range spans {
				rest.RemoveRange(s.start, s.end)
				if i > 0 && s.start <= spans[i-1].end {
					t.Fatalf("%v follows %v", s, spans[i-1])
				}
			}
			if !rest.Empty() {
				t.Errorf("%d pages are not covered", rest.Count())
			}
		}
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
	}
}
