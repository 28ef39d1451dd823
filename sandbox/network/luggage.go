package network

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// luggage is what a stack has and netstack does not save. It travels inside the
// kernel's state, with the one thing of ours that is saved with a stack: its clock.
type luggage struct {
	secrets tcpSecrets
	filters []byte // see ExportFilters
}

// pack puts together what a stack has to take along. Tasks must be paused.
func pack(s *stack.Stack) (luggage, error) {
	filters, err := ExportFilters(s)
	return luggage{readSecrets(s), filters}, err
}

// Unpack gives a loaded stack what it had beyond netstack's own state: the secrets
// of TCP, and the filter tables. It is called after the load and before anything
// runs, so that no packet passes unfiltered.
func Unpack(s *stack.Stack) error {
	c, ok := s.Clock().(*freezableClock)
	if !ok {
		return fmt.Errorf("stack has clock %T, want one of NewStack", s.Clock())
	}
	c.luggage.secrets.apply(s)
	if err := ApplyFilters(s, c.luggage.filters); err != nil {
		return err // and the next start fails too, rather than to run unfiltered
	}
	c.luggage = luggage{}
	return nil
}
