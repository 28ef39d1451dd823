// Package bundle sends a bundle from one host to another, as a tar stream.
//
//	config.json      the specification, its paths inside the bundle
//	rootfs/…         the root filesystem, and every other tree that a gofer serves from inside the bundle
//
// Survey says what would be sent and what cannot be, Pack sends it, Unpack writes
// it below a directory that nobody else uses yet.
//
// A copy has what a guest can see of a tree that it cannot write to: names, types,
// owners, permissions, modification times, extended attributes, symlinks, hard
// links, and contents. Devices, sockets and what other filesystems are mounted
// inside are refused by name. Files may not change while they are sent: Pack fails
// if one does.
//
// Unpack trusts nothing in the stream: a name leads below the directory, through
// directories that the stream itself made, to something that was not there; entries
// and bytes are bounded. On an error it leaves what it wrote, which the caller
// removes.
package bundle
