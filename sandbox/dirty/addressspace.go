package dirty

import (
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

// addressSpace is a platform.AddressSpace that knows where the memory file is
// mapped.
type addressSpace struct {
	platform.AddressSpace
	tracker *Tracker

	// generation counts the changes of mappings on the host. It is raised with
	// mu held, after the change.
	generation atomic.Uint64

	mu sync.Mutex
	// table is what the host maps, or more protected than it is: an entry may
	// say writable although the host does not (after a failure), never the
	// other way round.
	table table // guarded by mu
	// opened are the address ranges made writable since they were last
	// protected. guarded by mu, used while armed
	opened []span
	// openedAll says that opened does not tell, and that every entry must be
	// looked at. guarded by mu
	openedAll bool
}

// span is a range of addresses.
type span struct{ start, end uint64 }

// wholeSpace covers every address.
var wholeSpace = span{0, ^uint64(0)}

// permissionsOf packs what the kernel asked for.
func permissionsOf(at hostarch.AccessType) permissions {
	var p permissions
	if at.Read {
		p |= permRead
	}
	if at.Write {
		p |= permWrite
	}
	if at.Execute {
		p |= permExecute
	}
	return p
}

// hostAccess returns how e is mapped on the host.
func (e entry) hostAccess() hostarch.AccessType {
	at := hostarch.AccessType{
		Read:    e.perms&permRead != 0,
		Write:   e.writable(),
		Execute: e.perms&permExecute != 0,
	}
	if !at.Any() {
		at.Read = true // MapFile wants some access, and writing implies reading
	}
	return at
}

// MapFile implements platform.AddressSpace.
func (a *addressSpace) MapFile(addr hostarch.Addr, f memmap.File, fr memmap.FileRange, at hostarch.AccessType, precommit bool) error {
	if await := a.tracker.arrival.Load(); await != nil && f == a.tracker.main {
		(*await)(fr.Start/pageSize, fr.End/pageSize)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	armed := a.tracker.armed.Load()
	e := entry{start: uint64(addr), end: uint64(addr) + fr.Length(), offset: fr.Start, perms: permissionsOf(at)}
	ours := f == a.tracker.main
	if ours && armed && at.Write {
		e.protected = true
		at = e.hostAccess()
	}
	err := a.AddressSpace.MapFile(addr, f, fr, at, precommit)
	if armed && errors.Is(err, unix.ENOMEM) {
		// Clusters may have used up the mappings that the host allows.
		a.openEverything()
		err = a.AddressSpace.MapFile(addr, f, fr, at, precommit)
	}
	a.generation.Add(1)
	if ours && armed {
		a.tracker.markMapping(e)
	}
	if err != nil {
		// The old mappings may be there or not: they stay in the table.
		return err
	}
	if !ours {
		a.forget(span{e.start, e.end}, armed)
		return nil
	}
	a.table.set(e, a.forgotten(armed))
	return nil
}

// Unmap implements platform.AddressSpace.
func (a *addressSpace) Unmap(addr hostarch.Addr, length uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.AddressSpace.Unmap(addr, length)
	a.generation.Add(1)
	end := uint64(addr) + length
	if end < uint64(addr) {
		end = wholeSpace.end
	}
	a.forget(span{uint64(addr), end}, a.tracker.armed.Load())
}

// Release implements platform.AddressSpace.
func (a *addressSpace) Release() {
	a.mu.Lock()
	a.AddressSpace.Release()
	a.generation.Add(1)
	a.forget(wholeSpace, a.tracker.armed.Load())
	a.opened = nil
	a.mu.Unlock()
	// Only now: a collection that no longer finds this address space finds its
	// marks.
	t := a.tracker
	t.spacesMu.Lock()
	delete(t.spaces, a)
	t.spacesMu.Unlock()
}

// forget removes mappings that are gone, and marks what they mapped. mu is held.
func (a *addressSpace) forget(s span, mark bool) {
	a.table.carve(s.start, s.end, a.forgotten(mark))
}

// forgotten returns what is to be done with each mapping that is gone.
func (a *addressSpace) forgotten(mark bool) func(entry) {
	if !mark {
		return nil
	}
	return a.tracker.markMapping
}

// markRange makes the pages that are mapped within s dirty.
func (a *addressSpace) markRange(s span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.table.walk(s.start, s.end, func(e entry) {
		a.tracker.mark(e.clip(s.start, s.end))
	})
}

// remap maps e on the host as its fields say. mu is held.
func (a *addressSpace) remap(e entry) error {
	fr := memmap.FileRange{Start: e.offset, End: e.offset + e.end - e.start}
	err := a.AddressSpace.MapFile(hostarch.Addr(e.start), a.tracker.main, fr, e.hostAccess(), false)
	a.generation.Add(1)
	return err
}
