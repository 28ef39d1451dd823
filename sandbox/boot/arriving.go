package boot

import (
	"os"

	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

const (
	// arrivingProcs are as many threads as may wait in an access to missing memory while
	// others run: each keeps a processor of the Go runtime.
	arrivingProcs = 64
	// arrivingMapUnit is how much of memory a page fault maps, and waits for. More takes a
	// link of 1 Gbit/s longer than the way there and back; the pager asks for more where that
	// is likely to be needed next.
	arrivingMapUnit = 16 << 10
)

// openTrap makes a trap for missing memory of the device that the process was
// handed for that. It is nil where there is none; memory is then waited for in larger
// pieces.
func openTrap(devices []*os.File, p *dirty.Tracker) *faults.Trap {
	var trap *faults.Trap
	for _, device := range devices {
		if p.SeesMappings() {
			var err error
			if trap, err = faults.NewTrap(device, trapFD); err != nil {
				log.Warningf("memory is waited for in large pieces: %v", err)
			}
		}
		device.Close()
	}
	return trap
}

// beginArriving prepares for tasks that run while memory is missing. It stops all
// threads for a moment.
func (s *Sandbox) beginArriving(await func(start, end uint64)) {
	s.arriving.Store(true)
	s.platform.SetArrival(await)
	s.platform.SetMapUnit(arrivingMapUnit)
	gomaxprocs.Add(arrivingProcs)
	// Until endArriving, within the bound of a loaded kernel: a collection stops all threads,
	// and would wait for those that wait for memory.
	HoldCollections()
}

// endArriving is called when memory is complete, however it came.
func (s *Sandbox) endArriving() {
	s.platform.SetMapUnit(0)
	if !s.arriving.CompareAndSwap(true, false) {
		return
	}
	s.platform.SetArrival(nil)
	gomaxprocs.Add(-arrivingProcs)
	garbage.release()
}
