package hostkey

import "errors"

// Errors that callers branch on.
var (
	// ErrNoKey: this host has no key yet.
	ErrNoKey = errors.New("this host has no key")
	// ErrExists: Init on a directory that has a key. A key is never overwritten.
	ErrExists = errors.New("this host already has a key")
	// ErrExposed: the private key can be read by others than its owner.
	ErrExposed = errors.New("private key is accessible to others")
	// ErrMalformed: a key or name is not in the form that this package writes.
	ErrMalformed = errors.New("malformed")
	// ErrNameTaken: another key is trusted under this name.
	ErrNameTaken = errors.New("another key is trusted under this name")
	// ErrKeyTaken: this key is trusted under another name.
	ErrKeyTaken = errors.New("key is trusted under another name")
	// ErrOwnKey: the key is this host's own.
	ErrOwnKey = errors.New("key is this host's own")
	// ErrNoPeer: no peer of this name is trusted.
	ErrNoPeer = errors.New("no such trusted peer")
	// ErrTooMany: the list of trusted peers is full.
	ErrTooMany = errors.New("too many trusted peers")

	// ErrUntrusted: the peer proved a key that is not trusted here.
	ErrUntrusted = errors.New("peer is not trusted")
	// ErrRefusedByPeer: the peer ended the handshake because of us, most likely since it does not trust our key.
	ErrRefusedByPeer = errors.New("peer refused this host's key")
)
