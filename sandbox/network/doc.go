// Package network is the network of one sandbox: what it looks like
// (Identity), how it is taken from a host namespace (Probe, Open), how netstack
// is built over it (NewStack, Configure) and the gate through which every frame
// of the sandbox passes (Gate).
//
// # The two sides
//
//	privileged command                       sandbox process
//	------------------                       ---------------
//	Probe(namespace)  -> Identity  --JSON--> Configure(stack, Identity, fds) -> Gates
//	Open(namespace, Identity) -> fds ------> (inherited descriptors)
//	Takeover.Undo.Restore()                  Gate.Shut, Hold, Frames, Inject, Open, Announce
//
// The sandbox process opens no socket: it receives one AF_PACKET descriptor a
// channel of each interface, and after Configure it only reads and writes them.
//
// # A stop, from the sandbox's side
//
//	source                                   target
//	------                                   ------
//	Snapshot -> Identity, losses   ------->  Open(silent), Configure, Gates.Hold
//	(tasks paused) Quiesce(stack, gates)     Gates.Announce
//	kernel save, Gates.Frames      ------->  Gates.Inject, kernel load
//	(late frames) Gates.Frames     ------->  Unpack, tasks start, Rearm, Resume
//	                        on a rollback:
//	Gates.Announce, Gates.Inject   <-------  Gates.Frames(Inbound), Gates.Discard
//	tasks go on, Resume
//
// # Invariants
//
//   - Interface ids are part of the identity. Netstack finds the route of a
//     restored connection by interface id, so both sides use the same.
//   - While a gate is not open, nothing reaches the stack and nothing of the
//     stack reaches the wire. Announcements go past the gate.
//   - A gate delivers what it held before what comes later, in both directions.
//   - What the stack sent before it was saved belongs to the saved sandbox and is
//     held; what it sends afterwards, while the gate is still shut, never happened.
//   - Between Quiesce and Resume no timer of the stack fires. Netstack's own pause
//     leaves timers running, and they would change what is being saved.
//   - A connection that was loaded has no timer until Rearm.
//   - After Open the host's own stack holds none of the identity's addresses.
//
// # Lock order
//
//	Gate.controlMu -> Gate.inMu -> Gate.outMu -> Gate.queueMu
//	freezableClock.running -> locks of netstack -> Gate.outMu
//	freezableClock.running -> freezableClock.mu
//
// Netstack may send while it handles a delivery, so outMu is taken under inMu
// and never the other way round.
//
// # What it does not do
//
// It creates no namespace and no veth pair, publishes no port and asks no DHCP
// server: CNI, containerd or a script does. It does not decide when the gate
// shuts or opens; the owner of the stop does.
package network
