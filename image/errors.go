package image

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Code is the stable name of a way in which an operation on images can fail.
type Code string

// The codes, with what each means.
const (
	CodeReference     Code = "image_reference"      // not DIR[:name]
	CodeNotStore      Code = "image_not_store"      // the directory is no OCI image layout
	CodeNotFound      Code = "image_not_found"      // the store has no image of that name
	CodeNotCheckpoint Code = "image_not_checkpoint" // an OCI image, but not a checkpoint
	CodeSchema        Code = "image_schema"         // written in a format that this version does not read
	CodeBuild         Code = "image_build"          // saved by another build or gVisor version
	CodeArch          Code = "image_arch"           // saved on another architecture
	CodeCPU           Code = "image_cpu"            // this CPU lacks what the saved one had
	CodeDamaged       Code = "image_damaged"        // bytes are not those that were written
	CodeMissingBlob   Code = "image_missing_blob"   // a file of the image is gone
	CodeNoPage        Code = "image_no_page"        // the image does not have that page
	CodeIncomplete    Code = "image_incomplete"     // the caller wants committed what it never added
	CodeTooLarge      Code = "image_too_large"      // beyond a bound of the format
	CodeDiskFull      Code = "image_disk_full"      // no space, or quota, left where the image goes
	CodeIO            Code = "image_io"             // the system refused a read or a write
	CodeBusy          Code = "image_busy"           // another process is writing to the store
	CodeConfig        Code = "image_config"         // a Config that does not make sense
	CodeClosed        Code = "image_closed"         // used after Commit, Abort or Close
)

// Sentinels to compare with by errors.Is. Errors that this package returns carry details as well.
var (
	ErrReference     = &Error{Code: CodeReference}
	ErrNotStore      = &Error{Code: CodeNotStore}
	ErrNotFound      = &Error{Code: CodeNotFound}
	ErrNotCheckpoint = &Error{Code: CodeNotCheckpoint}
	ErrSchema        = &Error{Code: CodeSchema}
	ErrBuild         = &Error{Code: CodeBuild}
	ErrArch          = &Error{Code: CodeArch}
	ErrCPU           = &Error{Code: CodeCPU}
	ErrDamaged       = &Error{Code: CodeDamaged}
	ErrMissingBlob   = &Error{Code: CodeMissingBlob}
	ErrNoPage        = &Error{Code: CodeNoPage}
	ErrIncomplete    = &Error{Code: CodeIncomplete}
	ErrTooLarge      = &Error{Code: CodeTooLarge}
	ErrDiskFull      = &Error{Code: CodeDiskFull}
	ErrIO            = &Error{Code: CodeIO}
	ErrBusy          = &Error{Code: CodeBusy}
	ErrConfig        = &Error{Code: CodeConfig}
	ErrClosed        = &Error{Code: CodeClosed}
)

// Error says what is wrong with an image or a store.
type Error struct {
	Code   Code
	Blob   string // what it is about, such as "page pack sha256:…" or "index.json"; may be empty
	Detail string // what is wrong with it
	Err    error  // the cause, or nil
}

func (e *Error) Error() string {
	text := e.Detail
	if text == "" && e.Err == nil {
		text = string(e.Code)
	}
	if e.Err != nil {
		if text != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	if e.Blob != "" {
		text = e.Blob + ": " + text
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches errors with the same code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// remedies says for each code what a user can do. A code without one leaves nothing to do but to report it.
var remedies = map[Code]string{
	CodeReference:     "write DIR or DIR:NAME; a name has letters, digits and . _ -, at most 128",
	CodeNotStore:      "name a directory that has an image, or for a new one an empty or absent directory",
	CodeNotFound:      "list the store's images and name one of them",
	CodeNotCheckpoint: "name an image that was written by a checkpoint",
	CodeSchema:        "use the version of this program that wrote the image",
	CodeBuild:         "restore with the build that saved the image, or checkpoint again with this one",
	CodeArch:          "restore on a host of the saved architecture",
	CodeCPU:           "restore on a host whose CPU has what the saved one had",
	CodeDamaged:       "take the image from another copy, or checkpoint again",
	CodeMissingBlob:   "take the image from another copy, or checkpoint again",
	CodeDiskFull:      "free space, or write the image to another directory; nothing of it was kept",
	CodeIO:            "look for the cause in the kernel's log; nothing was kept of an image being written",
	CodeBusy:          "try again when the other checkpoint has ended",
}

// Remedy says what the user can do about it, or nothing.
func (e *Error) Remedy() string { return remedies[e.Code] }

func failf(code Code, blob, format string, args ...any) *Error {
	return &Error{Code: code, Blob: blob, Detail: fmt.Sprintf(format, args...)}
}

// ioError gives an error of the system its code. It passes on what already has one.
func ioError(blob string, err error) error {
	var ours *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &Error{Code: CodeDiskFull, Blob: blob, Err: err}
	case errors.Is(err, fs.ErrNotExist) && blob != "":
		return &Error{Code: CodeMissingBlob, Blob: blob, Err: err}
	default:
		return &Error{Code: CodeIO, Blob: blob, Err: err}
	}
}
