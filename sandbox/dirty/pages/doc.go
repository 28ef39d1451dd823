// Package pages describes sets of pages of a sandbox's memory file, and finds
// out from outside the sandbox which of them hold data, changed or went away.
//
// The memory file is a memfd that the sandbox grows, writes and punches while
// this package looks at it. Page p is the bytes [p*PageSize, (p+1)*PageSize).
//
//   - Set is a bitmap of pages.
//   - Committed and its companions list the pages that hold data.
//   - Scanner compares a file with a Table of hashes of what was sent before,
//     page by page: what differs changed, what is a hole now was freed. It is
//     the whole tracker of a round in which nothing is armed, and the filter
//     of a round in which something is.
//   - Audit compares a file at rest with a Table and names every page that a
//     tracker missed.
//
// Everything is read with pread(2) after SEEK_DATA: a mapping would commit the
// holes that it touches, and a file that shrinks would kill its reader. Nothing
// here writes to the file or moves memory that belongs to the sandbox, and
// nothing needs a gVisor type, so that a process outside the sandbox can use it.
//
// A page that is written while it is read is torn. That is no error: whoever
// needs more than an approximation reads again after it has armed the tracker
// in package dirty, and sends the bytes that were hashed, not a later copy (see
// Visit).
//
// No type here may be used by two goroutines at once, unless it says so.
package pages
