package dirty

import (
	"errors"
	"fmt"
	"time"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// Arm begins to track. What the pages hold when it returns, or later, is the
// base: the caller reads all of them then, and each collection names the pages
// that are to be read again.
//
// It runs while the sandbox does. After an error nothing is armed.
func (t *Tracker) Arm() (Stats, error) {
	t.armMu.Lock()
	defer t.armMu.Unlock()
	if t.armed.Load() {
		return Stats{}, ErrArmed
	}
	if t.options.Off {
		return Stats{}, fmt.Errorf("%w: it is switched off for this sandbox", ErrUnsupported)
	}
	if !t.options.Descriptors.open && t.memoryFile != nil {
		return Stats{}, fmt.Errorf("%w: no descriptors", ErrUnsupported)
	}
	if t.main == nil {
		return Stats{}, ErrNoMemoryFile
	}
	var stats Stats
	t.dirtyMu.Lock()
	t.dirty.Clear()
	t.dirtyMu.Unlock()
	t.counters.take(&stats, &t.options)
	t.spent = false
	t.armed.Store(true)
	if err := t.armAll(&stats); err != nil {
		return stats, errors.Join(err, t.disarm())
	}
	return stats, nil
}

// armAll protects everything, without marks. armMu is held.
func (t *Tracker) armAll(stats *Stats) error {
	if t.memoryFile != nil {
		if err := t.armSentry(stats); err != nil {
			return err
		}
	}
	began := time.Now()
	t.protectSpaces(stats, true, false)
	stats.ProtectTime = time.Since(began)
	if t.witness == nil {
		return nil
	}
	// All that the caller may read from now on must be watched from now on.
	began = time.Now()
	all := &Set{}
	all.AddRange(0, uint64(len(t.witness.chunks))*chunkPages)
	err := t.witness.watch(all)
	stats.WitnessTime = time.Since(began)
	return err
}

// armSentry registers and protects the sentry's mappings, and makes the
// witness. armMu is held.
func (t *Tracker) armSentry(stats *Stats) error {
	d, mf := t.options.Descriptors, t.memoryFile
	t.sentry = &sentry{descriptors: d, memoryFile: mf}
	if t.options.Disable&RuleReusedFrames == 0 {
		t.witness = &witness{descriptors: d, fd: mf.FD()}
	}
	began := time.Now()
	if _, _, err := t.follow(); err != nil {
		return err
	}
	written, err := t.sentry.written(true)
	stats.SentryTime = time.Since(began)
	if err == nil {
		stats.SentryPages = written.Count()
	}
	return err
}

// follow takes in the chunks that the memory file has grown by, and returns
// their pages. armMu is held.
func (t *Tracker) follow() (start, end uint64, err error) {
	start, end, err = t.sentry.follow()
	if err == nil && t.witness != nil {
		err = t.witness.follow(end * pageSize)
	}
	return start, end, err
}

// Collect returns the pages that are to be read again, because they changed or
// may have changed since the collection before, or since Arm, and goes on
// tracking. The set is the caller's. Pages in it may be holes: the other side
// punches those. It must read each page of the set after Collect returns and
// before the next collection.
//
// After an error it is not known what is dirty.
func (t *Tracker) Collect() (*Set, Stats, error) {
	return t.collect(false)
}

// CollectLast is the collection of a stopped sandbox. It protects nothing again,
// which makes it faster. Afterwards only Disarm is allowed.
func (t *Tracker) CollectLast() (*Set, Stats, error) {
	return t.collect(true)
}

func (t *Tracker) collect(last bool) (*Set, Stats, error) {
	t.armMu.Lock()
	defer t.armMu.Unlock()
	var stats Stats
	if !t.armed.Load() || t.spent {
		return nil, stats, ErrNotArmed
	}
	t.spent = last
	if t.sentry != nil {
		if err := t.collectSentry(&stats, last); err != nil {
			return nil, stats, err
		}
	}
	began := time.Now()
	if last {
		t.markSpaces(&stats)
	} else {
		t.protectSpaces(&stats, false, true)
	}
	stats.ProtectTime = time.Since(began)

	t.dirtyMu.Lock()
	set := t.dirty.Take()
	t.dirtyMu.Unlock()
	t.counters.take(&stats, &t.options)
	stats.Pages = set.Count()
	if t.witness == nil || last {
		return set, stats, nil
	}
	began = time.Now()
	err := t.witness.watch(set)
	stats.WitnessTime += time.Since(began)
	if err != nil {
		return nil, stats, err
	}
	return set, stats, nil
}

// collectSentry marks what the sentry wrote and what was freed. armMu is held.
func (t *Tracker) collectSentry(stats *Stats, last bool) error {
	began := time.Now()
	newStart, newEnd, err := t.follow()
	if err != nil {
		return err
	}
	if t.witness != nil {
		gone, err := t.witness.vanished(!last)
		if err != nil {
			return err
		}
		stats.VanishedPages = gone.Count()
		t.markSet(gone)
		stats.WitnessTime = time.Since(began)
		began = time.Now()
	}
	written, err := t.sentry.written(!last)
	if err != nil {
		return err
	}
	if t.options.Disable&RuleSentryWrites == 0 {
		written.AddRange(newStart, newEnd)
		stats.SentryPages = written.Count()
		t.markSet(written)
	}
	stats.SentryTime = time.Since(began)
	return nil
}

func (t *Tracker) markSet(set *Set) {
	t.dirtyMu.Lock()
	defer t.dirtyMu.Unlock()
	t.dirty.Union(set)
}

// protectSpaces protects every address space. See addressSpace.protect.
func (t *Tracker) protectSpaces(stats *Stats, everything, marks bool) {
	for _, a := range t.allSpaces() {
		remapped, failed := a.protect(everything, marks)
		stats.AddressSpaces++
		stats.Remapped += remapped
		stats.Unprotected += failed
	}
}

// markSpaces marks what can be written now in every address space.
func (t *Tracker) markSpaces(stats *Stats) {
	for _, a := range t.allSpaces() {
		a.markWritable()
		stats.AddressSpaces++
	}
}

// Disarm ends tracking and gives the application back its mappings. It is
// allowed at any time. After an error nothing is tracked all the same.
func (t *Tracker) Disarm() error {
	t.armMu.Lock()
	defer t.armMu.Unlock()
	if !t.armed.Load() {
		return nil
	}
	return t.disarm()
}

// disarm undoes what Arm did, also if it did only a part. armMu is held.
func (t *Tracker) disarm() error {
	t.armed.Store(false)
	for _, a := range t.allSpaces() {
		a.unprotect()
	}
	var errs []error
	if t.sentry != nil {
		errs = append(errs, t.sentry.close())
	}
	if t.witness != nil {
		errs = append(errs, t.witness.close())
	}
	t.sentry, t.witness = nil, nil
	return errors.Join(errs...)
}

// MappedPages returns the pages that some address space maps, and which may
// therefore be committed soon. A migration populates those among them that are
// holes before it pauses the sandbox, so that the kernel has not to look for
// them during the pause.
func (t *Tracker) MappedPages() *pages.Set {
	set := &Set{}
	for _, a := range t.allSpaces() {
		a.mu.Lock()
		a.table.walk(wholeSpace.start, wholeSpace.end, func(e entry) { set.AddRange(e.filePages()) })
		a.mu.Unlock()
	}
	return set
}
