// Package hostkey is how two hosts know each other: one Ed25519 key a host, and a list of the peers' keys that the
// operator trusts. There is no authority; a peer is trusted because its public key was put here by name.
//
// Data in: a directory, and public keys as text. Data out: this host's Identity, the trusted Peers, and TLS 1.3
// configurations that authenticate both sides by pinned keys.
//
// # The directory
//
//	DIR/                0700
//	DIR/host.key        0600  this host's private key: PKCS #8 in PEM
//	DIR/trusted/        0700
//	DIR/trusted/NAME    0600  a peer's public key: one line, as PublicKey.String writes it
//
// Files are published by write, sync and rename, so a reader sees all of a file or none. The list is read anew for
// every connection: a key that is removed is refused from then on, without a restart. A private key that others can read
// is refused.
//
// # Invariants
//
// A connection's bytes reach the caller only after both sides proved their keys. A peer that is not trusted gets a
// TLS alert and nothing else; what this side's certificate holds is its public key and no name. The certificate is made anew
// at every start, is valid for ever, and is never looked at but for its key: clocks do not matter.
//
// It does not limit who may connect how often (package agent), and keeps no secret from root on this host.
package hostkey
