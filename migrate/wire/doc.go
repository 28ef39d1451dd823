// Package wire is the language in which two hosts move a sandbox: one control connection with small strict JSON
// messages, and N data connections with binary frames.
//
// Data in: a net.Conn (TLS in production, memory in tests), payloads to send, bytes received. Data out: validated
// messages, frames and page records. It does not decide what a message leads to (packages migrate and journal), who
// the peer is (package hostkey) or how many connections there may be (package agent).
//
// # Preamble
//
// Both sides of every connection begin with 32 bytes; the dialler first. Integers are little-endian everywhere.
//
//	0        4         6      7        8                24      26      28         32
//	+--------+---------+------+--------+----------------+-------+-------+----------+
//	| "SBXM" | version | kind | status | attempt id     | index | count | CRC-32C  |
//	+--------+---------+------+--------+----------------+-------+-------+----------+
//
// kind is control (1) or data (2). index and count say which of how many data connections this is; both are zero on
// a control connection. The dialler's status is zero; the listener answers with its own version and a Status, and
// closes unless that is StatusOK. The preamble's layout never changes, so that each side can name both versions.
//
// # Control messages
//
//	0        4                                                                  4+length
//	+--------+---------------------------------------------------------------------+
//	| length | {"seq":0,"type":"hello","attempt":"…32 hex…","body":{…}}            |
//	+--------+---------------------------------------------------------------------+
//
// A message must be byte for byte what this package's encoder writes for it: an unknown, repeated, missing or
// differently spelt key, white space, or anything after the message is refused. seq counts from 0 for each direction of each
// connection, so a message sent again is refused, and attempt must be the preamble's. See control.go for the types.
//
// # Data frames
//
//	0        4      5       6        8          16          20         24             24+length
//	+--------+------+-------+--------+----------+-----------+----------+----------------+
//	| length | type | codec | stream | sequence | rawLength | CRC-32C  | payload        |
//	+--------+------+-------+--------+----------+-----------+----------+----------------+
//
// length is the payload's size as sent, rawLength its size after decompression; both are at most MaxPayloadBytes.
// sequence counts the frames of this direction of this connection from 0. The checksum covers the 20 bytes before
// it and the payload as sent. stream numbers a memory file, or a network interface in a TypePacket. The payloads
// are drawn beside their types in frame.go.
//
// # Order
//
// Frames of one connection arrive in order; frames of two connections in any order. A sender that lets a page
// change connection between two rounds puts a TypeBarrier on every connection between them: a receiver handles
// nothing behind a barrier before that barrier has come on all connections.
//
// # Version history
//
//	1  first version
//
// Lock order: ControlConn's send mutex is taken alone. Rendezvous' mutex is taken alone, never around I/O.
package wire
