package migrate

import "fmt"

// PhaseError is a step that the phases do not allow: a fault in the program or a message out of place. Nothing has
// changed.
type PhaseError struct {
	Role     Role
	From, To Phase
}

func (e *PhaseError) Error() string {
	return fmt.Sprintf("%s cannot go from phase %s to %s", e.Role, e.From, e.To)
}
