package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// Role is which end of an attempt this host is.
type Role string

// The roles.
const (
	Source Role = "source"
	Target Role = "target"
)

// State is how far an attempt has come, as the journal of one host has it. See the package documentation.
type State string

// The states. None is that of an attempt that the journal does not know.
const (
	None State = ""

	Begun      State = "begun"
	Aborted    State = "aborted"
	HandedOver State = "handed-over"
	TakenBack  State = "taken-back"
	Departed   State = "departed"

	Owner     State = "owner"
	Started   State = "started"
	Differs   State = "differs"
	Complete  State = "complete"
	Ended     State = "ended"
	Refused   State = "refused"
	Abandoned State = "abandoned"
)

// Arriving says whether a sandbox that runs here by such an attempt is not known to have the memory that the source had.
func (s State) Arriving() bool { return s == Started || s == Differs }

// Record is one entry of a journal.
type Record struct {
	Time     time.Time     `json:"time"` // for people; nothing is decided by it
	Role     Role          `json:"role"`
	State    State         `json:"state"`
	Attempt  attempt.ID    `json:"attempt"`
	Epoch    attempt.Epoch `json:"epoch"`
	Peer     string        `json:"peer"`     // name under which the other host's key is trusted
	PeerKey  string        `json:"peerKey"`  // its fingerprint
	Address  string        `json:"address"`  // where it was reached; may be empty
	Operator bool          `json:"operator"` // a person decided this
	Note     string        `json:"note"`     // why, for people; shortened to MaxNoteBytes
}

// Bounds. A record has a fixed size so that a torn one cannot be mistaken for a damaged one.
const (
	// MaxRecords bounds a journal: some thousands of migrations of one sandbox.
	MaxRecords = 16384
	// MaxNoteBytes bounds Record.Note.
	MaxNoteBytes = 160

	blockBytes    = 1024
	sectorBytes   = 512
	checksumChars = 8
	maxBodyBytes  = blockBytes - checksumChars - 2 // ' ' and '\n'
	maxFieldBytes = 80
	maxFileBytes  = (MaxRecords + 2) * blockBytes // the header, and a torn record
)

const formatLine = "sbxmigrate-journal 1 "

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// clean makes what came from elsewhere fit for one line.
func (r Record) clean() Record {
	r.Time = r.Time.UTC().Round(time.Microsecond)
	r.Peer, r.PeerKey = printable(r.Peer, maxFieldBytes), printable(r.PeerKey, maxFieldBytes)
	r.Address, r.Note = printable(r.Address, maxFieldBytes), printable(r.Note, MaxNoteBytes)
	return r
}

func printable(s string, maxBytes int) string {
	s = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return '?'
		}
		return c
	}, s)
	for len(s) > maxBytes {
		runes := []rune(s)
		s = string(runes[:min(len(runes)-1, maxBytes)])
	}
	return s
}

// encodeHeader returns the first block of a journal.
func encodeHeader(sandbox string) []byte { return seal([]byte(formatLine+sandbox), 0) }

// encode returns the record's block. previous is the checksum of the block before it.
func (r Record) encode(previous uint32) ([]byte, error) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	b := bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	if len(b) > maxBodyBytes {
		return nil, fmt.Errorf("%w: %d bytes (at most %d)", ErrIllegal, len(b), maxBodyBytes)
	}
	return seal(b, previous), nil
}

// seal makes a block of a body that fits.
func seal(body []byte, previous uint32) []byte {
	block := bytes.Repeat([]byte{' '}, blockBytes)
	copy(block[checksumChars+1:], body)
	block[blockBytes-1] = '\n'
	copy(block, fmt.Sprintf("%08x", chain(previous, block)))
	return block
}

// chain returns the checksum of a block after another.
func chain(previous uint32, block []byte) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], previous)
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, block[checksumChars:])
}

// unseal checks a block and returns its body and checksum.
func unseal(block []byte, previous uint32) (body []byte, sum uint32, reason string) {
	stated, err := strconv.ParseUint(string(block[:checksumChars]), 16, 32)
	sum = chain(previous, block)
	if err != nil || uint32(stated) != sum || fmt.Sprintf("%08x", sum) != string(block[:checksumChars]) {
		return nil, 0, "wrong checksum"
	}
	return bytes.TrimRight(block[checksumChars+1:blockBytes-1], " "), sum, ""
}

// decodeRecord reads a body whose checksum was right: what does not parse was written by something else.
func decodeRecord(body []byte) (Record, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return Record{}, err
	}
	if d.More() {
		return Record{}, fmt.Errorf("data after the record")
	}
	return r, nil
}
