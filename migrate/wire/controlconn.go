package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// envelope is what stands around every message.
type envelope struct {
	Seq     uint64          `json:"seq"`
	Type    string          `json:"type"`
	Attempt attempt.ID      `json:"attempt"`
	Body    json.RawMessage `json:"body"`
}

// ControlConn exchanges messages of one attempt on one connection, after the preambles. Send may be called by many
// at a time; Receive by one.
type ControlConn struct {
	conn    io.ReadWriter
	side    Side // this end
	attempt attempt.ID

	sendMu sync.Mutex
	// sent counts messages, and is their sequence number. Guarded by sendMu.
	sent uint64
	// sendErr is of an earlier write: what the peer has seen is unknown. Guarded by sendMu.
	sendErr error

	// received counts messages. Only Receive uses it.
	received uint64
}

// NewControlConn returns a ControlConn for this side of an attempt. The caller owns conn, sets its deadlines and
// closes it.
func NewControlConn(conn io.ReadWriter, side Side, id attempt.ID) *ControlConn {
	return &ControlConn{conn: conn, side: side, attempt: id}
}

// Attempt returns the attempt that this connection is about.
func (c *ControlConn) Attempt() attempt.ID { return c.attempt }

// Send sends one message, in one write. After a failed write every further call returns its error.
func (c *ControlConn) Send(m Message) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.sendErr != nil {
		return c.sendErr
	}
	b, err := encodeMessage(c.side, c.attempt, c.sent, m)
	if err != nil {
		return fmt.Errorf("send %T: %w", m, err)
	}
	framed := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	if _, err := c.conn.Write(append(framed, b...)); err != nil {
		c.sendErr = fmt.Errorf("send %T: %w", m, err)
		return c.sendErr
	}
	c.sent++
	return nil
}

// Receive returns the next message, or io.EOF where the peer closed between two messages. After any error the
// connection is to be closed.
func (c *ControlConn) Receive() (Message, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(c.conn, prefix[:]); err != nil {
		if err == io.EOF {
			return nil, io.EOF
		}
		return nil, readError(err, "control message")
	}
	length := binary.LittleEndian.Uint32(prefix[:])
	if length > MaxControlBytes {
		return nil, failf(CodeLength, "control message claims %d bytes (at most %d)", length, MaxControlBytes)
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		return nil, readError(err, "control message")
	}
	peer := Source
	if c.side == Source {
		peer = Target
	}
	m, err := decodeMessage(b, peer, c.attempt, c.received)
	if err != nil {
		return nil, err
	}
	c.received++
	return m, nil
}

// encodeMessage returns the only form of a message that decodeMessage takes.
func encodeMessage(from Side, id attempt.ID, seq uint64, m Message) ([]byte, error) {
	name, err := messageName(from, m)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(envelope{Seq: seq, Type: name, Attempt: id, Body: body})
	if err != nil {
		return nil, err
	}
	if len(b) > MaxControlBytes {
		return nil, failf(CodeLength, "message has %d bytes (at most %d)", len(b), MaxControlBytes)
	}
	return b, nil
}

func messageName(from Side, m Message) (string, error) {
	for name, t := range messageTypes {
		if t.from == from && reflect.TypeOf(t.new()) == reflect.TypeOf(m) {
			return name, nil
		}
	}
	return "", failf(CodeType, "no message of the %v", from)
}

// decodeMessage reads a message that must come from side from, belong to attempt id and be number seq.
func decodeMessage(b []byte, from Side, id attempt.ID, seq uint64) (Message, error) {
	var e envelope
	if err := strictUnmarshal(b, &e); err != nil {
		return nil, failf(CodePayload, "malformed control message: %v", err)
	}
	t, ok := messageTypes[e.Type]
	switch {
	case !ok:
		return nil, failf(CodeType, "unknown control message %q", abbreviate(e.Type))
	case t.from != from:
		return nil, failf(CodeType, "%s is no message of the %v", e.Type, from)
	case e.Attempt != id:
		return nil, failf(CodeAttempt, "%s belongs to attempt %v, this connection to %v", e.Type, e.Attempt, id)
	case e.Seq != seq:
		return nil, failf(CodeSequence, "%s is message %d where %d is due: repeated or lost", e.Type, e.Seq, seq)
	}
	m := t.new()
	if err := strictUnmarshal(e.Body, m); err != nil {
		return nil, failf(CodePayload, "malformed %s: %v", e.Type, err)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	again, err := encodeMessage(from, id, seq, m)
	if err != nil || !bytes.Equal(again, b) {
		// A repeated key, a key in another case or order, white space: encoding/json would let all of them pass, and
		// two readers could then understand two messages.
		return nil, failf(CodePayload, "%s is not in the form that this protocol writes", e.Type)
	}
	return m, nil
}

func strictUnmarshal(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("data after the message")
	}
	return nil
}
