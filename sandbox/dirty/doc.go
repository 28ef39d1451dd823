// Package dirty tells which pages of a sandbox's memory file changed since they
// were last sent.
//
// The kernel that runs the sandbox tracks nothing. Two trackers do it together,
// from outside of it:
//
//   - What the application writes. A Tracker is the platform.Platform given to
//     the kernel and wraps the real one. While it is armed, every writable
//     mapping of the memory file is made read-only on the host. Context.Switch
//     sees the write fault before the kernel does, maps a cluster of pages
//     writable and goes on. A collection marks what is writable dirty, and
//     makes it read-only again.
//   - What the sentry writes for the application (read(2) into a buffer, tmpfs,
//     signal frames) goes through the sentry's own mapping of the file. That
//     mapping is registered with userfaultfd for asynchronous write-protection,
//     and PAGEMAP_SCAN lists and re-protects the written pages.
//
// # The rule
//
// A page is clean only if it stayed mapped and write-protected everywhere since
// it was last sent. So, while armed:
//
//   - MapFile, Unmap and Release mark each frame that they touch, read-only ones
//     included: a frame outside the table of mappings is out of sight.
//   - An madvise(2) seen in Switch marks its range.
//   - A frame that is freed is punched later, by another goroutine, and one that
//     is then used again and only read comes back as zeros, committed and never
//     written. So the tracker has a third, read-only mapping of the file, the
//     witness, in which exactly the pages of the sets handed out are present. A
//     punch removes a page from it; a page that is gone from it is dirty. The
//     witness is filled with UFFDIO_CONTINUE, which never commits a hole.
//
// Each mark is made after the operation that it is for, both under the lock of
// the address space, which a collection takes too: whatever an operation let
// through before it ended is in the set of that collection or of the next. A
// collection takes that lock for one part of an address space at a time, and half
// of the CPUs: the application runs.
//
// # Use
//
//	descriptors, err := dirty.OpenDescriptors()     // before seccomp
//	tracker := dirty.Wrap(platform, dirty.Options{Descriptors: descriptors})
//	tracker.SetMemoryFile(memoryFile)               // before the first process
//	tracker.Arm()                                   // then read every page
//	set, stats, err := tracker.Collect()            // then read these; repeat
//	set, stats, err = tracker.CollectLast()         // paused; then read these
//	tracker.Disarm()
//
// The last collection belongs into the first AddWrite of a Kernel.SaveTo, where
// time stands still; before that the clock page changes under a paused kernel.
// If any call fails, nothing is known of what is dirty: Disarm and scan with
// package pages.
//
// While disarmed, the cost is that of a table of mappings for each address
// space, and one comparison for each Switch. Options.Off leaves even that out.
//
// # Throttle
//
// Since every Switch comes through here, this is also where time is taken from an
// application that changes memory faster than it can be sent: see
// Tracker.Throttle. It needs no tracking, and costs one comparison for each Switch
// where it takes nothing.
//
// # Locks
//
//	Tracker.armMu > addressSpace.mu > Tracker.dirtyMu
//	Tracker.armMu > Tracker.spacesMu
//	throttle.turnMu > throttle.contextsMu, apart from the others
//
// No lock is held while the wrapped Context.Switch runs. addressSpace.mu is held
// across the wrapped MapFile, Unmap and Release. The kernel's own memory locks
// are above all of these.
//
// # What it does not do
//
// It tracks one memory file; others (a rootfs overlay on disk) are not seen. It
// does not read or send pages. It does not know the application's addresses.
package dirty
