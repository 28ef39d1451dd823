// Package inside is the half of checkpoint and restore that runs inside a
// sandbox process, next to the kernel that is saved or loaded.
//
// It moves no page. Pages lie in the memory file, which the pager outside has
// too; what crosses between the two are references:
//
//	save     kernel state and memory metadata stream out through pipes; page
//	         ranges that belong to the saved kernel go out as they are found
//	load     kernel state and metadata stream in; page ranges that the kernel
//	         needs go out as requests, and come back as done
//
// # Pages that come later
//
// A kernel that was told which pages are missing (post-copy) runs before they have
// come: it keeps their frames, its accesses to them wait, and the pager brings them in an
// order of its own, what somebody waits for first. See arrivals. It outlives its pager: it
// waits until the next one attaches, and tells that what is left. It has one pager
// at a time, and no page is placed twice.
//
// # The stop
//
// A stop is bounded by a lifeline: a pipe whose other end the pager holds. When
// the pager dies, the lifeline ends, and the sandbox goes on as if nothing had
// been asked. Only Disarm takes that away, once the pager has made the saved
// state durable.
//
//	running ─ Save ─► saving ─ Resume, or lifeline ends ─► running
//	                     └──── Disarm ─► held (until the process is ended)
//
// # Order
//
// Pause tasks, collect their registers, shut the network gates, save. When the
// save returns, time and the network stack run again inside, so the gates stay
// shut until the resume.
package inside
