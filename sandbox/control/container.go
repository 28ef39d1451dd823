package control

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// MaxCreateFiles is how many files may come with CreateArgs: gofer sockets and
// streams of one container.
const MaxCreateFiles = maxFiles

// CreateArgs makes a further container in a running sandbox. Its first process
// runs once Start is called.
type CreateArgs struct {
	// Files are where the container's exit record goes, then Streams standard
	// streams, then Preserved, and the rest is the gofer's sockets in mount order.
	// The call closes none of the caller's files.
	urpc.FilePayload
	// Name is the kernel's name for the container, which no other of the sandbox
	// has. It goes with the saved kernel, whatever the container is called outside.
	Name string `json:"name"`

	Spec   *specs.Spec  `json:"spec"`
	Mounts *mounts.List `json:"mounts"`
	// PIDNamespaceOf names the container whose PID namespace it shares; empty: it
	// gets one of its own.
	PIDNamespaceOf string `json:"pidNamespaceOf,omitempty"`
	// Streams is 3, or 1 for a terminal's slave end.
	Streams   int `json:"streams"`
	Preserved int `json:"preserved"` // become 3, 4, … inside
}
