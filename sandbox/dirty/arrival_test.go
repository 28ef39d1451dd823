package dirty

import (
	"testing"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
)

// While memory arrives, what is mapped of it is awaited first, and nothing else is. Others use the address space meanwhile.
func TestArrivalIsAwaited(t *testing.T) {
	host := newFakeHost(16)
	tr := host.tracker(Options{})
	space, err := tr.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	mapPages := func(f memmap.File, start, end uint64) {
		t.Helper()
		fr := memmap.FileRange{Start: start * pageSize, End: end * pageSize}
		if err := space.MapFile(hostarch.Addr(start*pageSize), f, fr, hostarch.ReadWrite, false); err != nil {
			t.Fatal(err)
		}
	}
	awaited, come := make(chan [2]uint64), make(chan struct{})
	tr.SetArrival(func(start, end uint64) {
		awaited <- [2]uint64{start, end}
		<-come
	})
	mapped := make(chan struct{})
	go func() {
		mapPages(host.main, 2, 5)
		close(mapped)
	}()
	if got, want := <-awaited, [2]uint64{2, 5}; got != want {
		t.Errorf("pages %v are awaited, want %v", got, want)
	}
	mapPages(&fakeFile{name: "other"}, 8, 9)
	space.Unmap(8*pageSize, pageSize)
	if host.maps.Load() != 1 {
		t.Error("memory is mapped before it has come")
	}
	close(come)
	<-mapped
	tr.SetArrival(nil)
	mapPages(host.main, 6, 7)
}
