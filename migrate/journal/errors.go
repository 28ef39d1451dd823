package journal

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrLocked: another process has the journal open, and decides.
	ErrLocked = errors.New("journal is in use by another process")
	// ErrCorrupt: the journal is damaged. See CorruptError.
	ErrCorrupt = errors.New("journal is damaged")
	// ErrIllegal: a record that may not follow what the journal says. Nothing was written.
	ErrIllegal = errors.New("illegal record")
	// ErrOpenAttempt: an attempt is under way or needs a decision; it ends before another begins.
	ErrOpenAttempt = errors.New("another attempt is not over")
	// ErrStaleEpoch: an attempt at an epoch that this host has already seen.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrUncertain: a record may or may not be on the disk. Nobody may act on either.
	ErrUncertain = errors.New("journal write failed")
	// ErrFull: the journal has MaxRecords records.
	ErrFull = errors.New("journal is full")
	// ErrClosed: the journal is closed.
	ErrClosed = errors.New("journal is closed")
	// ErrName: a sandbox id that is no file name.
	ErrName = errors.New("sandbox id is not usable as a file name")
)

// CorruptError says where a journal is damaged. It is an ErrCorrupt.
type CorruptError struct {
	Path   string
	Block  int // from 0, the header
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal %s is damaged at block %d: %s", e.Path, e.Block, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }
