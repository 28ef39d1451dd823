// Package checkpoint saves sandboxes into images and restores them out of
// images.
//
// It is the pager: the half that runs in the command, reads and writes pages of
// the sandbox's memory file, and talks to package inside, the half in the
// sandbox process.
//
//	Save     survey ─► prepare ─► stop ─► pages ─► commit ─► end (or resume)
//	Restore  plan ─► load kernel state ─► start ─► pages, as they are asked for
//
// For a migration it gives the same in pieces: Live is a sandbox that is about to
// leave, Standby one that arrives, and Pager the way to one that runs while pages
// are missing.
//
// # What is not trusted
//
// Everything that comes out of a sandbox process: page ranges, requests for
// pages, surveys. Ranges are checked against the memory file before a byte is
// read. The memory file cannot shrink (it is sealed), and is read with pread, so
// that nothing a guest does can take the pager down.
//
// # Failure
//
// A save that fails, at any point, leaves the sandbox as it was and no image:
// the sandbox goes on when the pager dies (see inside), and an image becomes
// visible in its last step. A restore that fails leaves no sandbox.
//
// Plan decides whether a restore may happen and Restore asks the same function:
// there is no second opinion.
package checkpoint
