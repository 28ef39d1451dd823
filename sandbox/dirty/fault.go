package dirty

// verdict says whose a write fault is.
type verdict int

const (
	// faultOfKernel is not ours. To hand a fault over is always right, if slow:
	// the kernel knows what may be written and maps it again.
	faultOfKernel verdict = iota
	// faultOpened is dealt with: the page is writable now.
	faultOpened
	// faultStale was taken on a mapping that has changed meanwhile. The
	// application goes on and sees for itself.
	faultStale
)

// fault handles a write fault at addr that was taken while the application ran
// in a. seen is the generation of a when it was resumed.
func (a *addressSpace) fault(addr, seen uint64) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.table.find(addr)
	if !ok || e.perms&permWrite == 0 {
		return faultOfKernel
	}
	c := &a.tracker.counters
	if !e.protected {
		// The host lets the application write here. If that is so since before
		// it was resumed, this fault has another cause. If some mapping has
		// changed since, then most likely another thread opened this one.
		if a.generation.Load() == seen {
			return faultOfKernel
		}
		c.retries.Add(1)
		return faultStale
	}
	faults := c.faults.Add(1) - 1
	part := e
	if a.tracker.armed.Load() {
		part = e.cluster(addr, a.tracker.options.clusterBytes(faults))
	}
	if a.open(part) == nil {
		return faultOpened
	}
	// The host allows an address space only so many mappings.
	c.widened.Add(1)
	if a.open(e) == nil {
		return faultOpened
	}
	a.openEverything()
	if e, ok = a.table.find(addr); !ok || !e.writable() {
		return faultOfKernel
	}
	return faultOpened
}

// cluster returns the aligned part of e, of size bytes, that holds addr.
func (e entry) cluster(addr, size uint64) entry {
	start := addr &^ (size - 1)
	return e.clip(start, start+size)
}

// open makes e, a protected entry or part of one, writable. Its pages become
// dirty when that ends: by a collection, or because the mapping goes. If it
// fails, e stays protected. mu is held.
func (a *addressSpace) open(e entry) error {
	e.protected = false
	if err := a.remap(e); err != nil {
		return err
	}
	a.table.set(e, nil)
	if a.tracker.armed.Load() {
		a.opened = append(a.opened, span{e.start, e.end})
	}
	return nil
}

// openEverything makes all mappings writable that the kernel wants writable, in
// as few pieces as there can be. What fails stays protected. mu is held.
func (a *addressSpace) openEverything() {
	a.openedAll = true
	for _, r := range a.runs(wholeSpace, unboundedGap, func(e entry) bool { return e.protected }) {
		r.whole.protected = false
		if a.remap(r.whole) != nil {
			continue
		}
		a.table.set(r.whole, nil)
	}
}
