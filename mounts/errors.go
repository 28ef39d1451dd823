package mounts

import (
	"errors"
	"fmt"
	"strings"
)

// Code names one kind of error or warning. Codes are stable and shown to the
// user.
type Code string

// Codes of errors.
const (
	CodeRoot          Code = "E_MOUNT_ROOT"           // the specification has no usable root
	CodeTooMany       Code = "E_MOUNT_TOO_MANY"       // more mounts than one container may have
	CodeDestination   Code = "E_MOUNT_DESTINATION"    // not a usable path inside the container
	CodeDuplicate     Code = "E_MOUNT_DUPLICATE"      // two mounts on one destination
	CodeUnknownType   Code = "E_MOUNT_UNKNOWN_TYPE"   // no such filesystem in a sandbox
	CodeTypeConflict  Code = "E_MOUNT_TYPE_CONFLICT"  // a bind option on another type
	CodeOption        Code = "E_MOUNT_OPTION"         // an option that cannot be read
	CodeOptionValue   Code = "E_MOUNT_OPTION_VALUE"   // an option's value is out of range
	CodeSource        Code = "E_MOUNT_SOURCE"         // a bind without a usable source path
	CodeSourceMissing Code = "E_MOUNT_SOURCE_MISSING" // the source does not exist
	CodeSourceKind    Code = "E_MOUNT_SOURCE_KIND"    // the source cannot be served
	CodeSourceSystem  Code = "E_MOUNT_SOURCE_SYSTEM"  // the source belongs to the host's kernel
	CodeAnnotation    Code = "E_MOUNT_ANNOTATION"     // a shared mount's annotations make no sense
)

// Codes of warnings.
const (
	WarnTypeDropped   Code = "W_MOUNT_TYPE_DROPPED"   // left out under the lenient policy
	WarnOptionIgnored Code = "W_MOUNT_OPTION_IGNORED" // an option without effect in a sandbox
	WarnNotMerged     Code = "W_MOUNT_NOT_MERGED"     // part of a mount on a place the sandbox fills itself
	WarnHintUnused    Code = "W_MOUNT_HINT_UNUSED"    // a shared mount that nothing mounts
)

// Codes returns every code of this package with its meaning, for documentation.
func Codes() map[Code]string {
	return map[Code]string{
		CodeRoot:          "the specification has no root, or it is not a directory of this host",
		CodeTooMany:       "the container has more mounts than a sandbox takes",
		CodeDestination:   "a mount's destination is not an absolute path",
		CodeDuplicate:     "two mounts have the same destination",
		CodeUnknownType:   "a sandbox has no filesystem of this type",
		CodeTypeConflict:  "a mount asks for a bind and has another type",
		CodeOption:        "a mount option cannot be read",
		CodeOptionValue:   "a mount option has a value that its filesystem does not take",
		CodeSource:        "a bind mount names no usable source",
		CodeSourceMissing: "a bind mount's source does not exist on this host",
		CodeSourceKind:    "a bind mount's source is neither directory, file, socket nor FIFO",
		CodeSourceSystem:  "a bind mount's source is the host's /proc or /sys, or a device",
		CodeAnnotation:    "the annotations of a shared mount are incomplete or contradict each other",
		WarnTypeDropped:   "a mount of unknown type was left out, as asked",
		WarnOptionIgnored: "a mount option is not known and has no effect",
		WarnNotMerged:     "a mount on /dev, /dev/pts, /proc or /sys asks for what the sandbox's own does not have",
		WarnHintUnused:    "annotations describe a shared mount that the container does not mount",
	}
}

// Error is one reason why a specification's mounts cannot be compiled.
type Error struct {
	Code     Code   `json:"code"`
	Mount    string `json:"mount"` // destination, or what stands in its place
	Found    string `json:"found"`
	Expected string `json:"expected"`
	Remedy   string `json:"remedy"`
	cause    error
}

// Error is one line for people.
func (e *Error) Error() string {
	return fmt.Sprintf("mount %q: %s, want %s: %s [%s]", e.Mount, e.Found, e.Expected, e.Remedy, e.Code)
}

// Unwrap returns the host's error, if one is behind this one.
func (e *Error) Unwrap() error { return e.cause }

// Errors are all reasons at once, in the order of the specification. Never empty
// where it is returned.
type Errors []*Error

// Error has one line an error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As see each one.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// AsErrors returns the reasons that Compile gave, or nil if err is something
// else.
func AsErrors(err error) Errors {
	var all Errors
	if errors.As(err, &all) {
		return all
	}
	var one *Error
	if errors.As(err, &one) {
		return Errors{one}
	}
	return nil
}

// Warning is something that a specification asks for in vain.
type Warning struct {
	Code    Code   `json:"code"`
	Mount   string `json:"mount"` // destination
	Message string `json:"message"`
}

// String is one line for people.
func (w Warning) String() string {
	return fmt.Sprintf("mount %q: %s [%s]", w.Mount, w.Message, w.Code)
}
