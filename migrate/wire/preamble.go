package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

const (
	preambleBytes = 32
	preambleMagic = "SBXM"
)

// castagnoli is the polynomial of every checksum here: processors compute it at memory speed.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind says what a connection carries.
type Kind uint8

// The kinds of connection.
const (
	KindControl Kind = 1
	KindData    Kind = 2
)

// Status is a listener's answer to a preamble.
type Status uint8

// The answers. Everything but StatusOK is followed by the end of the connection.
const (
	StatusOK       Status = 0
	StatusVersion  Status = 1 // the listener speaks the version in its answer, and no other
	StatusUnknown  Status = 2 // no attempt of this id expects data connections from this peer
	StatusTaken    Status = 3 // this data connection is there already
	StatusBusy     Status = 4 // a limit on connections or migrations is reached
	StatusStopping Status = 5 // the agent takes nothing new
)

// String says what the status means, from the dialler's point of view.
func (s Status) String() string {
	switch s {
	case StatusOK:
		return "ok"
	case StatusVersion:
		return "peer speaks another protocol version"
	case StatusUnknown:
		return "peer does not expect a data connection of this attempt"
	case StatusTaken:
		return "peer already has this data connection"
	case StatusBusy:
		return "peer is at its limit of connections or migrations"
	case StatusStopping:
		return "peer is stopping"
	}
	return fmt.Sprintf("unknown status %d", uint8(s))
}

// Preamble opens a connection, in both directions.
type Preamble struct {
	Version uint16
	Kind    Kind
	Status  Status
	Attempt attempt.ID
	Index   uint16 // of this data connection, below Count
	Count   uint16 // of data connections in this attempt
}

// WritePreamble sends p with this package's Version.
func WritePreamble(w io.Writer, p Preamble) error {
	p.Version = Version
	_, err := w.Write(appendPreamble(nil, p))
	return err
}

func appendPreamble(b []byte, p Preamble) []byte {
	start := len(b)
	b = append(b, preambleMagic...)
	b = binary.LittleEndian.AppendUint16(b, p.Version)
	b = append(b, byte(p.Kind), byte(p.Status))
	b = append(b, p.Attempt[:]...)
	b = binary.LittleEndian.AppendUint16(b, p.Index)
	b = binary.LittleEndian.AppendUint16(b, p.Count)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// ReadPreamble reads the peer's preamble. Where the peer speaks another version it returns the preamble and an
// ErrVersion, so that a listener can answer.
func ReadPreamble(r io.Reader) (Preamble, error) {
	var b [preambleBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Preamble{}, readError(err, "preamble")
	}
	return parsePreamble(b[:])
}

func parsePreamble(b []byte) (Preamble, error) {
	if string(b[:4]) != preambleMagic {
		return Preamble{}, failf(CodeMagic, "peer does not speak the sbxmigrate protocol")
	}
	if crc32.Checksum(b[:28], castagnoli) != binary.LittleEndian.Uint32(b[28:]) {
		return Preamble{}, failf(CodeChecksum, "preamble has a wrong checksum")
	}
	p := Preamble{
		Version: binary.LittleEndian.Uint16(b[4:]),
		Kind:    Kind(b[6]),
		Status:  Status(b[7]),
		Attempt: attempt.ID(b[8:24]),
		Index:   binary.LittleEndian.Uint16(b[24:]),
		Count:   binary.LittleEndian.Uint16(b[26:]),
	}
	if p.Version != Version {
		return p, failf(CodeVersion, "peer speaks protocol version %d, this side version %d", p.Version, Version)
	}
	switch {
	case p.Attempt.IsZero():
		return Preamble{}, failf(CodePayload, "preamble names no attempt")
	case p.Kind == KindControl && (p.Index != 0 || p.Count != 0):
		return Preamble{}, failf(CodePayload, "preamble of a control connection has a data connection's index")
	case p.Kind == KindData && (p.Count == 0 || p.Count > MaxDataConnections || p.Index >= p.Count):
		return Preamble{}, failf(CodeLength, "preamble names data connection %d of %d (at most %d)", p.Index, p.Count, MaxDataConnections)
	case p.Kind != KindControl && p.Kind != KindData:
		return Preamble{}, failf(CodeType, "preamble names unknown kind of connection %d", p.Kind)
	}
	return p, nil
}

// Greet is the dialler's side of the preambles: it sends p, reads the answer, and checks that the listener took the
// connection as what it is.
func Greet(conn io.ReadWriter, p Preamble) error {
	p.Status = StatusOK
	if err := WritePreamble(conn, p); err != nil {
		return fmt.Errorf("send preamble: %w", err)
	}
	answer, err := ReadPreamble(conn)
	if err != nil {
		return fmt.Errorf("read answer to preamble: %w", err)
	}
	if answer.Status != StatusOK {
		return failf(CodeRefused, "connection refused: %v", answer.Status)
	}
	if answer.Attempt != p.Attempt || answer.Kind != p.Kind || answer.Index != p.Index || answer.Count != p.Count {
		return failf(CodeAttempt, "peer answered for another connection")
	}
	return nil
}

// readError makes an end of input inside something into ErrTruncated, and leaves other errors as they are.
func readError(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return failf(CodeTruncated, "connection ended inside a %s", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}
