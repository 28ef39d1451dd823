package dirty

import "errors"

var (
	// ErrUnsupported says that the kernel lacks something that tracking needs,
	// or that the descriptors were not opened in time. The text names it. The
	// hash scan of package pages does without.
	ErrUnsupported = errors.New("dirty tracking is not supported here")

	// ErrNotArmed is returned by a collection while nothing is tracked.
	ErrNotArmed = errors.New("dirty tracking is not armed")

	// ErrArmed is returned by Arm when it is armed already.
	ErrArmed = errors.New("dirty tracking is armed already")

	// ErrNoMemoryFile says that SetMemoryFile was not called in time.
	ErrNoMemoryFile = errors.New("dirty tracker has no memory file")
)
