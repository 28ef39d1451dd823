// Package journal is the durable memory of who owns a sandbox. With it, and only with it, a crash of either host, of
// any process on it, or of the link, at any point of a migration, leaves at most one running copy and a record of
// where the state is.
//
// Data in: records that a source or a target appends before it acts, and the peer's answers. Data out: the History
// of a sandbox on this host, and what to do next: Decide for the source, Take and Answer for the target. These are
// pure functions; the test in model_test.go runs every interleaving of them with crashes, failed writes and messages that are lost,
// repeated or late.
//
// # States
//
// Each record moves one attempt to a state. "→" is the only order in which they may follow; everything else is
// refused.
//
//	source   begun → aborted
//	               → handed-over → taken-back
//	                             → departed
//	target   owner → started → complete → ended
//	                       → differs    (no agent completes it: the operator decides)
//	               → refused            (by the process that knows that it did not start it)
//	         refused
//	         owner, started, differs, complete → abandoned   (by the operator)
//
//	begun        the attempt has its id and burned its epoch. Before anything is sent.
//	aborted      it is over, nothing was handed over. Before the sandbox resumes.
//	handed-over  the target may own it. After the sandbox confirmed that its resume deadline is disarmed, before the
//	             commit is sent.
//	taken-back   it never ran there and never will: it is ours again, at a new epoch. Before the sandbox resumes.
//	departed     all of it is there. Before the local copy is destroyed.
//	owner        the commit was taken. Before anything else.
//	started      after owner, before tasks start.
//	differs      its memory is not the source's. An agent that is started anew could not tell.
//	complete     the last page is there. Before the source hears it.
//	ended        the sandbox ended here in its own time.
//	refused      it never ran here and never will. Before the source hears it.
//	abandoned    the copy that was or may have been here is gone, says the operator.
//
// # What a source does about an answer (Decide)
//
//	                handed-over    begun          aborted, taken-back   departed
//	unreachable     ask again      abort          resume                destroy
//	prepared        send commit    abort          resume                destroy
//	owner           ask again      operator       operator              destroy
//	incomplete      serve pages    operator       operator              destroy
//	complete        depart         operator       operator              destroy
//	refused         take back      abort          resume                destroy
//	lost            operator       operator       operator              destroy
//
// # Invariants
//
// Never two running copies. Once a copy ran on a target, no older one runs by itself. A copy is destroyed only after
// the other host durably has all of it. What a journal says is true after any crash: see fencing in model_test.go.
//
// One process at a time has a journal open: a lock on a file beside it lasts as long as the process. A record that Append
// returned nil for is durable. After an error of Append the record may or may not be there; only a later Append that
// succeeds decides it, for it replaces the whole file. Open does the same with what it read, since a record whose
// sync failed can be read back from memory and still not be on the disk.
//
// # The file
//
// DIR/SANDBOX.journal is blocks of 1024 bytes. The first names the format and the sandbox, every further one is a
// record:
//
//	0          8   9                                            1023
//	+----------+---+----------------------------+----------------+----+
//	| CRC-32C  | ' ' | JSON                       | spaces …       | \n |
//	+----------+---+----------------------------+----------------+----+
//
// The checksum, 8 hexadecimal digits, covers the previous block's checksum and the rest of this block, so no record can be
// changed, taken out or put in between. A last block that is cut short, or has a 512-byte half of zeros (a
// sector that was never written), is the torn tail of a write that nobody acted on, and is dropped. Everything else
// that does not check is damage, and refused by line: somebody must look. Size cannot rot, so damage never looks torn.
//
// This package does not talk to the peer, does not touch the sandbox, and does not overrule the operator.
//
// Lock order: Journal's methods take its mutex alone; the file lock is taken by Open, before the mutex exists.
package journal
