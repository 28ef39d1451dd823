package wire

import "fmt"

// Code is the stable name of a way in which a peer's bytes can be wrong.
type Code string

// The codes, with what each means.
const (
	CodeTruncated Code = "wire_truncated" // the connection ended inside something
	CodeLength    Code = "wire_length"    // a length or count beyond its bound
	CodeChecksum  Code = "wire_checksum"  // the bytes are not those that were sent
	CodeSequence  Code = "wire_sequence"  // repeated, lost or reordered
	CodeType      Code = "wire_type"      // unknown, or not allowed in this direction
	CodeCodec     Code = "wire_codec"     // unknown codec, or data that does not decompress as declared
	CodePayload   Code = "wire_payload"   // well framed, but its content makes no sense
	CodeAttempt   Code = "wire_attempt"   // belongs to another attempt
	CodeMagic     Code = "wire_magic"     // the peer does not speak this protocol
	CodeVersion   Code = "wire_version"   // the peer speaks another version
	CodeRefused   Code = "wire_refused"   // the listener answered with a status other than StatusOK
)

// Sentinels to compare with by errors.Is. Errors that this package returns carry details as well.
var (
	ErrTruncated = &Error{Code: CodeTruncated}
	ErrLength    = &Error{Code: CodeLength}
	ErrChecksum  = &Error{Code: CodeChecksum}
	ErrSequence  = &Error{Code: CodeSequence}
	ErrType      = &Error{Code: CodeType}
	ErrCodec     = &Error{Code: CodeCodec}
	ErrPayload   = &Error{Code: CodePayload}
	ErrAttempt   = &Error{Code: CodeAttempt}
	ErrMagic     = &Error{Code: CodeMagic}
	ErrVersion   = &Error{Code: CodeVersion}
	ErrRefused   = &Error{Code: CodeRefused}
)

// Error says what is wrong with the bytes of a peer. No connection is usable after one.
type Error struct {
	Code   Code
	Detail string
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return string(e.Code)
	}
	return e.Detail
}

// Is matches errors with the same code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

func failf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}
