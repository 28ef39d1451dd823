// Package migrate moves a running sandbox to another host.
//
// It owns both sides of a migration: Migrate on the source, Receiver on the target, which is an agent.Handler and also
// goes on with migrations whose command was killed (Receiver.Recover), serving missing pages where it must; the phases (Machine), what is reported (Report) and what is
// told while it goes on (Event). How memory and kernel get out of and into a sandbox process is package checkpoint's business.
// Its parts have packages of their own:
//
//	attempt      the identity of one try, and how it stands
//	wire         messages and frames between the hosts
//	hostkey      who the other host is
//	journal      who owns the sandbox, durably, and what to do after a crash
//	handover     the only code that appends to a journal: commit, recovery, refusal
//	convergence  when pre-copy stops
//	agent        the listener that receives
//	failpoint    where tests stop a process
//
// Data in: a running sandbox, a peer, a budget. Data out: the sandbox running there, or running on here as if nothing had
// happened, and a Report.
//
// # Phases
//
//	             source                              target
//	plan         hello, plan, findings               preflight, standby starts
//	rounds       pages, while the sandbox runs       pages placed
//	pause        tasks pause, gate shuts             announces itself, queues packets
//	state        kernel state is encoded and sent,   … and decoded
//	             last pages and lists beside it      … and placed
//	residual     what of that takes longer, digests
//	load         waits                               loads, verifies: prepared
//	start        journal, commit, waits              journal, starts
//	announce     hears that it runs                  opens its gate
//	fetch        serves missing pages                fetches them (post-copy only)
//	done         destroys its copy                   —
//
// A migration can be aborted up to and including load. From start on it is handed over: it ends done, taken back (the
// target durably refused), or unresolved (only package journal knows, and perhaps an operator).
//
// # Invariants
//
// After post-copy a page is placed once, and only while the kernel asks for it (fetch). The source's copy is destroyed only after both
// sides have the same sum of all pages that this run of the target's agent has fetched. What an agent before it fetched, and its kernel had
// taken, the guest may have changed: that is not compared again, and where it was everything, nothing is.
//
// A phase follows another only as the table in phase.go allows. Each moment of a migration belongs to exactly one phase,
// so the times of the phases sum to the total, to the nanosecond.
//
// Each side keeps a ledger of the pages that the target has. No commit is sent before their sums, and the digests of the kernel's
// streams, are equal.
//
// Nothing that a peer or a sandbox process says is used before it was checked against a bound.
//
// # Locks
//
// The mutexes of Machine, ledger, inbox, stream, Canceller and Steering are taken alone, a lane's around a write to its connection. An
// arrival's is held while a sandbox is started or discarded, under that of handover.Target. A fetch's is taken under an arrival's, and held
// while pages are placed. Receiver's is taken alone.
//
// # What it does not do
//
// More than one memory file.
package migrate
