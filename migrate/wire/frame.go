package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Type says what a frame's payload is.
type Type uint8

// The frame types. "S→T" is sent by the source of a migration only, "T→S" by the target only.
const (
	// TypePages (S→T) places pages in memory file stream. Its payload is page records, one after another:
	//
	//	data       01 000000 | count u32 | page u64 | count × 4096 bytes
	//	zero       02 000000 | count u32 | page u64
	//	duplicate  03 000000 | count u32 | page u64 | from u64
	//
	// zero makes pages read as zeros while they stay committed. duplicate makes [page, page+count) equal to
	// [from, from+count), as an earlier record on the same connection placed those since its last barrier. A sender
	// sends no page twice between two barriers, so that they still are what they were. A duplicate has at most
	// MaxBatchPages pages, and does not overlap what it copies.
	TypePages Type = 1

	// TypePunch (S→T) makes ranges of memory file stream into holes. Its payload is ranges, ascending and apart:
	//
	//	page u64 | count u64
	TypePunch Type = 2

	// TypeState (S→T) is the next piece of kernel state: opaque bytes, in order, on one connection.
	TypeState Type = 3

	// TypeMeta (S→T) is the next piece of the metadata of memory files: opaque bytes, in order, on one connection.
	TypeMeta Type = 4

	// TypeCommitted (S→T) is the next piece of the final list of committed pages of memory file stream: ranges,
	// ascending and apart across all frames of the list. Pages outside it are holes.
	TypeCommitted Type = 5

	// TypeMissing (both) is the next piece of a list of ranges as in TypeCommitted (post-copy). From the source: the
	// committed pages that have not been sent when the target starts. From the target: those of them that have come
	// since, to be compared; TypeSum answers its end.
	TypeMissing Type = 6

	// 7 was for digests of pages: the audit that wanted them runs on the source.

	// TypeBarrier (S→T) separates rounds. A receiver handles no frame behind it before the same barrier has come on
	// every data connection:
	//
	//	number u64
	TypeBarrier Type = 8

	// TypeRequest (T→S) asks for missing pages of memory file stream (post-copy), the most urgent first; ranges need
	// not ascend:
	//
	//	page u64 | count u64
	TypeRequest Type = 9

	// TypeEnd (both) ends the sequence of TypeState, TypeMeta, TypeCommitted, TypeMissing or TypeBundle frames of a stream, and
	// says how many payload bytes they had:
	//
	//	type u8 | 00000000000000 | bytes u64
	TypeEnd Type = 10

	// TypePacket (both) hands over one network packet of interface stream that reached a closed gate, with how an
	// outbound one is to be cut. flags: 1 outbound, 2 checksum valid, 4 checksum to be filled in:
	//
	//	flags u8 | segmentation u8 | 0000 | checksum offset u16 | header bytes u16 | network header bytes u16 |
	//	MSS u16 | most bytes u32 | packet from the link header on
	TypePacket Type = 11

	// TypeSum (S→T) answers a list of pages that have come with their PageSum, as the source has them:
	//
	//	xxh3-128 (16 bytes)
	TypeSum Type = 12

	// TypeBundle (S→T) is the next piece of the bundle that is sent along: a tar archive, in order, on data
	// connection 0, before the plan.
	TypeBundle Type = 13
)

var typeNames = map[Type]string{
	TypePages: "pages", TypePunch: "punch", TypeState: "state", TypeMeta: "meta", TypeCommitted: "committed",
	TypeMissing: "missing", TypeBarrier: "barrier", TypeRequest: "request", TypeEnd: "end",
	TypePacket: "packet", TypeSum: "sum", TypeBundle: "bundle",
}

// String returns the type's name.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

func (t Type) known() bool { return typeNames[t] != "" }

// compressible says whether trying to compress this type can pay.
func (t Type) compressible() bool {
	switch t {
	case TypePages, TypeState, TypeMeta, TypeCommitted, TypeMissing, TypeBundle:
		return true
	}
	return false
}

const frameHeaderBytes = 24

// header is a frame without its payload.
type header struct {
	length    uint32
	typ       Type
	codec     Codec
	stream    uint16
	sequence  uint64
	rawLength uint32
	checksum  uint32
}

// put writes h to b, which has frameHeaderBytes bytes, with the checksum over it and payload.
func (h header) put(b, payload []byte) {
	binary.LittleEndian.PutUint32(b[0:], h.length)
	b[4], b[5] = byte(h.typ), byte(h.codec)
	binary.LittleEndian.PutUint16(b[6:], h.stream)
	binary.LittleEndian.PutUint64(b[8:], h.sequence)
	binary.LittleEndian.PutUint32(b[16:], h.rawLength)
	binary.LittleEndian.PutUint32(b[20:], checksum(b, payload))
}

func checksum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:20], castagnoli), castagnoli, payload)
}

// parseHeader checks everything that can be known before the payload is there: nothing has been allocated yet.
func parseHeader(b []byte, sequence uint64) (header, error) {
	h := header{
		length:    binary.LittleEndian.Uint32(b[0:]),
		typ:       Type(b[4]),
		codec:     Codec(b[5]),
		stream:    binary.LittleEndian.Uint16(b[6:]),
		sequence:  binary.LittleEndian.Uint64(b[8:]),
		rawLength: binary.LittleEndian.Uint32(b[16:]),
		checksum:  binary.LittleEndian.Uint32(b[20:]),
	}
	switch {
	case h.length > MaxPayloadBytes || h.rawLength > MaxPayloadBytes:
		return h, failf(CodeLength, "frame %d claims %d bytes, %d decompressed (at most %d)", sequence, h.length, h.rawLength, MaxPayloadBytes)
	case !h.typ.known():
		return h, failf(CodeType, "frame %d has unknown type %d", sequence, h.typ)
	case h.codec != CodecRaw && h.codec != CodecZstd:
		return h, failf(CodeCodec, "frame %d has unknown codec %d", sequence, h.codec)
	case h.codec == CodecRaw && h.rawLength != h.length:
		return h, failf(CodeLength, "raw frame %d claims %d bytes and %d", sequence, h.length, h.rawLength)
	case h.stream >= MaxStreams:
		return h, failf(CodeLength, "frame %d names stream %d (at most %d)", sequence, h.stream, MaxStreams-1)
	case h.sequence != sequence:
		return h, failf(CodeSequence, "frame %d came where frame %d is due: repeated or lost", h.sequence, sequence)
	}
	return h, nil
}

// Frame is a received frame. Payload is decompressed and belongs to the Reader: it is valid until the next call of
// Next.
type Frame struct {
	Type    Type
	Stream  uint16
	Payload []byte
}
