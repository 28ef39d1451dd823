package attempt

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// IDBytes is the size of an ID, in memory and on the wire.
const IDBytes = 16

// ErrID is returned for text that is not an attempt's ID.
var ErrID = errors.New("not an attempt id: want 32 lowercase hexadecimal digits, not all zero")

// ID identifies one attempt. The zero ID is no attempt.
type ID [IDBytes]byte

// New returns a fresh random ID.
func New() ID {
	var id ID
	// Never fails: the runtime ends the process where the system has no randomness.
	rand.Read(id[:])
	return id
}

// Parse reads the text form that String writes.
func Parse(text string) (ID, error) {
	var id ID
	if len(text) != hex.EncodedLen(IDBytes) {
		return ID{}, ErrID
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil || id.IsZero() || id.String() != text {
		return ID{}, ErrID
	}
	return id, nil
}

// IsZero says whether id is no attempt.
func (id ID) IsZero() bool { return id == ID{} }

// String returns 32 lowercase hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler. The zero ID is an error: no record and no message is without attempt.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, ErrID
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Epoch counts the changes of ownership that a sandbox went through or tried. The first attempt has epoch 1; every
// attempt, and every take-back, takes the next one.
type Epoch uint64

// String returns "epoch N".
func (e Epoch) String() string { return fmt.Sprintf("epoch %d", uint64(e)) }
