package terminal

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A frame is
//
//	offset  size
//	0       1     kind
//	1       2     length of the payload, little endian, at most MaxFrameBytes
//	3       …     payload
type frame struct {
	kind    kind
	payload []byte
}

type kind byte

const (
	kindData  kind = 1 // both ways: what is typed, what is shown
	kindSize  kind = 2 // to the keeper: rows u16, columns u16
	kindExit  kind = 3 // to the person: exit status u32 of the process inside
	kindEnded kind = 4 // to the person: text, why there is no more; the process may go on
)

const headerBytes = 3

// MaxFrameBytes bounds a frame's payload.
const MaxFrameBytes = 32 << 10

// writeFrame writes one frame. payload is at most MaxFrameBytes long.
func writeFrame(w io.Writer, k kind, payload []byte) error {
	b := make([]byte, 0, headerBytes+len(payload))
	b = append(b, byte(k))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// readFrame reads one frame and checks it. A stream that ends between two is io.EOF.
func readFrame(r io.Reader) (frame, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: kind(header[0])}
	n := int(binary.LittleEndian.Uint16(header[1:]))
	if n > MaxFrameBytes {
		return frame{}, fmt.Errorf("terminal frame of %d bytes, limit is %d", n, MaxFrameBytes)
	}
	want := -1
	switch f.kind {
	case kindData, kindEnded:
	case kindSize, kindExit:
		want = 4
	default:
		return frame{}, fmt.Errorf("terminal frame of unknown kind %d", header[0])
	}
	if want >= 0 && n != want {
		return frame{}, fmt.Errorf("terminal frame of kind %d has %d bytes, want %d", f.kind, n, want)
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, fmt.Errorf("terminal frame is cut short: %w", err)
	}
	return f, nil
}
