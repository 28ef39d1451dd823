// Package terminal keeps a terminal for a process of a sandbox while nobody
// sits at it, and lets people attach to it and detach again.
//
//	guest ── slave end │ master end ── Keeper ── Unix socket ── Attach ── a person
//	                                     │
//	                                     └── log
//
// A Keeper owns the master end. It reads all that the guest writes, so that
// the guest never waits for a reader: into a log, and to whoever is attached; what
// comes while nobody is waits for the next one, the newest MaxHeldBytes of it. One
// at a time can be attached. The next takes the terminal over, since the one before
// may have lost its connection.
//
// The socket lies in the sandbox's state directory, which only root can enter.
// What goes over it are frames (frame.go), bounded and checked on both sides.
//
// It does not make terminals, and knows nothing of their signals: that is the
// command's, whose stand-in leads a terminal's session.
package terminal
