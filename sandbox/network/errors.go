package network

import "errors"

var (
	// ErrHostNamespace is returned when a takeover would strip the machine's own
	// network namespace of its addresses.
	ErrHostNamespace = errors.New("network namespace is the host's own")

	// ErrInvalidIdentity is returned for an identity that breaks its own rules.
	ErrInvalidIdentity = errors.New("invalid network identity")

	// ErrLinkMissing is returned when an interface of the identity does not exist
	// in the namespace.
	ErrLinkMissing = errors.New("interface not found in the network namespace")

	// ErrLinkTaken is returned for an interface that a sandbox has already.
	ErrLinkTaken = errors.New("interface belongs to another sandbox: give each a network namespace of its own")

	// ErrInvalidFrame is returned for a frame that cannot be injected.
	ErrInvalidFrame = errors.New("invalid network frame")
)
