// Package handover carries out what package journal decides: the source's side from the first record to the end of the
// attempt, and the target's side of commits and queries. It is the only code that appends to a journal during a migration.
//
// Data in: an open journal, the paused sandbox (Original) or the standby (Arrival), and a way to ask the peer. Data out: an
// Outcome on the source, a Standing on the target. It does not move pages, and does not know connections.
//
// # Invariants
//
// What a record allows is done only after Append returned nil. After a record of unknown fate nothing is done until a
// record that ends the attempt is durable. Everything can be called again after a crash: Recover on the source, and on the target
// simply the next message.
//
// # What the interfaces must promise
//
// Original.Disarm succeeds only if the sandbox is paused and stays so until it is told otherwise. Original.Resume and
// Destroy change nothing when done already. Arrival.Copy says Absent only when no process is left that could start; a
// standby ends with the agent that made it, unless it was started.
//
// Lock order: Target's mutex is held across the journal and the Arrival. Neither calls back.
package handover
