// Package restoreenv says what backs each mount of a saved sandbox on this host,
// and everything that speaks against it.
//
// # The environment
//
// An Environment has, for each container and filesystem, the mounts in the order
// in which they were compiled. Build makes it from a compiled list; the one of a
// saved sandbox travels in its image, and a restoring host makes its own from
// its own bundle.
//
// # Resolving
//
// Resolve holds the saved environment against this host's, entry by entry, by
// container, filesystem, device and destination, and takes in what is wrong with
// the bundles that this host's was compiled from. It returns a Resolution, which
// has a host path for each mount that a gofer must serve, and Findings: every
// difference at once, each with a code, both sides, the nearest candidate and a
// remedy. A restore goes ahead exactly where Findings.Refuses says no; a plan
// prints the same answer and starts nothing.
//
//	in:  saved environment, this host's, --map; of the host, what sources are
//	out: Resolution, Findings, each with the policies under which it refuses
//
// # Consuming
//
// A restore creates no mount: the saved filesystems reconnect to descriptors,
// one for each served device. A Supply hands these out once each, and says which
// were missing or left over.
//
// # What it does not do
//
// It starts no gofer, opens no served file, changes nothing on the host, and
// does not look at network identity or the image's pages.
package restoreenv
