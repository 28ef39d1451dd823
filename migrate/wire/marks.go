package wire

import "encoding/binary"

// AppendBarrier appends the payload of a TypeBarrier frame to b.
func AppendBarrier(b []byte, number uint64) []byte {
	return binary.LittleEndian.AppendUint64(b, number)
}

// ParseBarrier reads a TypeBarrier payload.
func ParseBarrier(payload []byte) (number uint64, err error) {
	if len(payload) != 8 {
		return 0, failf(CodePayload, "barrier frame has %d bytes", len(payload))
	}
	return binary.LittleEndian.Uint64(payload), nil
}

// End closes a sequence of frames, so that a sequence that was cut short is noticed.
type End struct {
	Type  Type   // of the frames that it ends
	Bytes uint64 // of payload that they had
}

// AppendEnd appends the payload of a TypeEnd frame to b.
func AppendEnd(b []byte, end End) []byte {
	b = append(b, byte(end.Type), 0, 0, 0, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint64(b, end.Bytes)
}

// ParseEnd reads a TypeEnd payload. The caller compares Bytes with what it received.
func ParseEnd(payload []byte) (End, error) {
	if len(payload) != 16 {
		return End{}, failf(CodePayload, "end frame has %d bytes", len(payload))
	}
	word := binary.LittleEndian.Uint64(payload)
	end := End{Type: Type(payload[0]), Bytes: binary.LittleEndian.Uint64(payload[8:])}
	switch end.Type {
	case TypeState, TypeMeta, TypeCommitted, TypeMissing, TypeBundle:
	default:
		return End{}, failf(CodePayload, "end frame ends %v frames", end.Type)
	}
	if word != uint64(end.Type) {
		return End{}, failf(CodePayload, "end frame has unknown flags")
	}
	return end, nil
}
