// Package mounts compiles the mounts of an OCI specification into the list that
// a sandbox will really have, says what backs them on this host, and binds and
// unmounts on the host.
//
// # Compiling
//
// Compile turns a specification into a List: the root, the mounts that every
// container has (/proc, /sys, /dev, /dev/pts), those of the specification in
// their order, parents before what lies below them, and an internal /tmp where
// nothing would be hidden by it. The list is the contract between the host side,
// the sandbox's kernel and an image: it is JSON, its names are stable, and its
// device names depend on destinations alone.
//
//	in:  specification, bundle directory, recorded decision about /tmp
//	out: List, warnings in it; or every error at once, and the list without
//	     the mounts that could not be compiled
//
// Compile changes nothing. It looks at the host only for what each source is
// and, unless its decision was recorded, for what the root has in /tmp.
//
// # Host facts and operations
//
// Facts says which device and mount hold a path, and whether that storage can
// follow a sandbox to another host. Binds makes bind mounts and undoes them in
// reverse order.
//
// # What it does not do
//
// It mounts nothing inside a sandbox, starts no gofer, and compares nothing with
// a saved sandbox: that is package restoreenv. All of it is safe for concurrent
// use except Binds, which has one owner.
package mounts
