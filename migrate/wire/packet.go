package wire

import "encoding/binary"

// Packet is a network packet on its way to the gate of another host.
type Packet struct {
	Outbound bool // from the sandbox, not to it
	// ChecksumValid says that the transport checksum need not be right.
	ChecksumValid bool
	// What follows says how an outbound packet is to be cut; all zero where it is
	// not.
	SegmentationType uint8
	NeedsChecksum    bool
	ChecksumOffset   uint16
	HeaderBytes      uint16
	NetworkBytes     uint16
	MSSBytes         uint16
	MaxBytes         uint32
	Data             []byte // from the link header on
}

const packetHeaderBytes = 16

// The flags of a packet.
const (
	packetOutbound      = 1 << 0
	packetChecksumValid = 1 << 1
	packetNeedsChecksum = 1 << 2
	packetKnownFlags    = packetOutbound | packetChecksumValid | packetNeedsChecksum
)

// AppendPacket appends the payload of a TypePacket frame to b. The packet's data
// has at most MaxPacketBytes.
func AppendPacket(b []byte, p Packet) []byte {
	var flags uint8
	for _, f := range []struct {
		on  bool
		bit uint8
	}{{p.Outbound, packetOutbound}, {p.ChecksumValid, packetChecksumValid}, {p.NeedsChecksum, packetNeedsChecksum}} {
		if f.on {
			flags |= f.bit
		}
	}
	b = append(b, flags, p.SegmentationType, 0, 0)
	for _, n := range []uint16{p.ChecksumOffset, p.HeaderBytes, p.NetworkBytes, p.MSSBytes} {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	b = binary.LittleEndian.AppendUint32(b, p.MaxBytes)
	return append(b, p.Data...)
}

// ParsePacket reads a TypePacket payload. Data is a copy.
func ParsePacket(payload []byte) (Packet, error) {
	if len(payload) <= packetHeaderBytes || len(payload) > packetHeaderBytes+MaxPacketBytes {
		return Packet{}, failf(CodeLength, "packet frame has %d bytes (at most %d)", len(payload), packetHeaderBytes+MaxPacketBytes)
	}
	flags := payload[0]
	if flags&^packetKnownFlags != 0 || payload[2]|payload[3] != 0 {
		return Packet{}, failf(CodePayload, "packet frame has unknown flags")
	}
	return Packet{
		Outbound: flags&packetOutbound != 0, ChecksumValid: flags&packetChecksumValid != 0,
		NeedsChecksum: flags&packetNeedsChecksum != 0, SegmentationType: payload[1],
		ChecksumOffset: binary.LittleEndian.Uint16(payload[4:]), HeaderBytes: binary.LittleEndian.Uint16(payload[6:]),
		NetworkBytes: binary.LittleEndian.Uint16(payload[8:]), MSSBytes: binary.LittleEndian.Uint16(payload[10:]),
		MaxBytes: binary.LittleEndian.Uint32(payload[12:]),
		Data:     append([]byte(nil), payload[packetHeaderBytes:]...),
	}, nil
}
