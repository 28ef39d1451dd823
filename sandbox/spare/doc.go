// Package spare starts sandbox processes and gofers, and hands them what they need
// later.
//
// A sandbox process needs 20 ms until it has initialised its many packages, has
// left the host's root and has its platform, and nothing of that depends on what
// will run inside. So a command that will surely need one calls Prepare as its
// very first act, reads and checks the bundle and opens the network meanwhile, and
// then takes the process with Take, and the gofer with TakeGofer. Where that is not
// possible, Start and StartGofer start one on the spot; the rest is the same.
//
// # Handing over
//
// The process inherits one end of a socket pair. Give sends descriptors over it,
// in messages of maxPerMessage at most; the first byte of a message says whether
// it is the last. What they mean is package boot's, or package gofer's. A process whose socket
// reaches its end before that was not needed, and exits: so nothing is left of a
// command that is killed.
//
// # Isolation
//
// A sandbox process starts in new user, PID, mount, IPC, UTS and network namespaces, as
// nobody on the host, in a session of its own. It has left the host's root, and
// has no capability, before it receives anything. A process that failed to leave
// receives too, only to report that over one of the descriptors, and exits. A gofer
// has namespaces of its own as well, and leaves the host's root once it has been handed
// the mounts that it serves.
//
// Check tells both processes that this package has started them: by hand they would
// change the namespaces of whoever called them.
//
// # Start-up order
//
// Prepare is called from a package initialiser, before those of gVisor's packages
// have run. So this package imports nothing but the standard library.
package spare
