package sandbox

import "errors"

// Errors that callers branch on. They are wrapped with the sandbox's ID and
// what was found.
var (
	// ErrExists says that the ID is taken.
	ErrExists = errors.New("sandbox already exists")
	// ErrNotFound says that no sandbox has this ID. Container managers look
	// for these words.
	ErrNotFound = errors.New("sandbox does not exist")
	// ErrBadID says that the ID cannot name a sandbox.
	ErrBadID = errors.New("bad sandbox ID")
	// ErrState says that the sandbox is not in the state the operation needs.
	ErrState = errors.New("sandbox is in the wrong state")
	// ErrMigrated says that the sandbox lives on another host now; the message
	// names it.
	ErrMigrated = errors.New("sandbox has migrated to")
	// ErrBundle says that the bundle cannot be run.
	ErrBundle = errors.New("bad bundle")
	// ErrBoot says that the sandbox process did not come up.
	ErrBoot = errors.New("sandbox process failed to start")
)
