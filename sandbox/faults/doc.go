// Package faults makes accesses to memory wait that has not arrived yet, by means of
// a userfaultfd of the host's kernel.
//
// A sandbox that runs before its memory is there touches pages in two ways. What
// its application touches goes through mappings that its kernel makes, which can
// wait before it makes one. What the kernel itself touches (a buffer of a system
// call, a file in memory) lies in mappings that it has had all along, and a thread
// that waits in such an access keeps a processor of the Go runtime, so that nothing
// of that runtime can be relied upon to end the wait. So the two ends of this
// package are in two processes:
//
//	Trap     in the sandbox process: registers its mappings, and does nothing else
//	Handler  in the pager: learns of each access to a page that is not there, and
//	         puts pages there, which ends the waits
//
// # Rules
//
// A page is put in its place at most once: Handler.Copy and Handler.Zero fail with
// ErrPresent for one that is there, and never change it. A page that is in the
// file (however it came there) is not waited for. So what is trapped must be a hole
// before it is trapped.
//
// Accesses by the host's kernel, as a read(2) into such a page, wait too. That
// takes a userfaultfd that an unprivileged process cannot make, but for the device
// file that it is handed: see OpenDevice.
package faults
