package migrate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// PhaseError is a step that the phases do not allow: a fault in the program or a message out of place. Nothing has
// changed.
type PhaseError struct {
	Role     Role
	From, To Phase
}

func (e *PhaseError) Error() string {
	return fmt.Sprintf("%s cannot go from phase %s to %s", e.Role, e.From, e.To)
}

// Errors that callers branch on.
var (
	// ErrRefused says that the target does not take the sandbox. The error is a
	// *RefusedError or a *FindingsError.
	ErrRefused = errors.New("target refused")
	// ErrAudit says that the target's pages are not those of the source: a fault
	// in the program.
	ErrAudit = errors.New("audit failed")
	// ErrUnresolved says that the sandbox was handed over and that it is not known
	// how that ended. It stays paused here; this host's agent goes on with it.
	ErrUnresolved = errors.New("hand-over is not over")
	// ErrArriving says that memory of the sandbox is still on the host that it comes from.
	ErrArriving = errors.New("its memory has not completely arrived here")
	// ErrNotConverged says that memory changes faster than it can be sent.
	ErrNotConverged = errors.New("migration does not converge")
)

// RefusedError is a target's refusal.
type RefusedError struct{ Code, Message string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%v: %s: %s", ErrRefused, e.Code, e.Message)
}

// Is makes every RefusedError an ErrRefused.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// FindingsError is what does not fit on the target.
type FindingsError struct{ Findings []wire.Finding }

func (e *FindingsError) Error() string {
	var lines []string
	for _, f := range e.Findings {
		if f.Fatal {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", f.Code, f.Subject, f.Message))
		}
	}
	return fmt.Sprintf("%v: %d findings:\n  %s", ErrRefused, len(lines), strings.Join(lines, "\n  "))
}

// Is makes every FindingsError an ErrRefused.
func (e *FindingsError) Is(target error) bool { return target == ErrRefused }
