// Package agent receives connections from other hosts and hands those of trusted peers to whoever moves sandboxes.
//
// Data in: a listener, this host's identity, whom it trusts, Limits. Data out: a Session for each control connection,
// joined by its data connections. It owns admission: how many connections, migrations and bytes of sandbox memory at a time. It
// does not know what a migration is, and keeps nothing durable.
//
// # The way in
//
//	accept → lobby → TLS handshake → preamble → a seat among the peer's connections → Session or data connection
//
// Everybody waits in the lobby until the preamble has been read, and for Limits.HandshakeTimeout at most. When the lobby
// is full, the connection that has waited longest, of the address that has the most in it, is closed: idle
// connections push each other out, and not those that get on. A peer's connections count against it until they are closed.
//
// # Invariants
//
// Memory before authentication is bounded by Limits.Handshakes. A peer that is not trusted gets a TLS alert. No
// input ends the agent; what fails to be accepted (no file descriptors) is tried again.
//
// A panic of a handler is not caught: what it had done of a handover is not known, and the journal's recovery at the next
// start does know.
//
// Lock order: the mutexes of lobby and seats are each taken alone, never around I/O other than closing.
package agent
