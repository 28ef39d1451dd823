package checkpoint

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
)

// Errors that callers branch on.
var (
	// ErrRefused says that the plan has findings that forbid the restore. The
	// error is a *RefusedError.
	ErrRefused = errors.New("restore refused")
	// ErrUnsavable says that the sandbox has something now that cannot be
	// saved. The error is an *UnsavableError.
	ErrUnsavable = errors.New("sandbox cannot be saved right now")
	// ErrSandbox says that the sandbox process broke the protocol or went away.
	ErrSandbox = errors.New("sandbox process failed")
)

// RefusedError carries the plan that refused.
type RefusedError struct{ Plan *Plan }

func (e *RefusedError) Error() string {
	var lines []string
	for _, f := range e.Plan.Refusals() {
		lines = append(lines, f.String())
	}
	return fmt.Sprintf("%v: %d findings:\n  %s", ErrRefused, len(lines), strings.Join(lines, "\n  "))
}

// Unwrap makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// UnsavableError carries what stands in the way.
type UnsavableError struct{ Findings []inside.Finding }

func (e *UnsavableError) Error() string {
	var lines []string
	for _, f := range e.Findings {
		lines = append(lines, fmt.Sprintf("%s: %s; %s", f.Code, f.Detail, f.Remedy))
	}
	return fmt.Sprintf("%v:\n  %s", ErrUnsavable, strings.Join(lines, "\n  "))
}

// Unwrap makes errors.Is(err, ErrUnsavable) true.
func (e *UnsavableError) Unwrap() error { return ErrUnsavable }
