package wire

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Reader receives frames of one data connection. It is not safe for concurrent use.
type Reader struct {
	r        *bufio.Reader
	sequence uint64
	received []byte // reused for payloads as sent
	unpacked []byte // reused for payloads after decompression
	decoder  *zstd.Decoder
	err      error
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Next returns the next frame, checked and decompressed. It returns io.EOF where the connection ended between two
// frames; an end inside a frame is ErrTruncated. After an error every further call returns it.
//
// Next checks the frame, not what its payload says: give that to ParsePages, ParseRanges and so on.
func (r *Reader) Next() (Frame, error) {
	if r.err != nil {
		return Frame{}, r.err
	}
	f, err := r.next()
	r.err = err
	return f, err
}

func (r *Reader) next() (Frame, error) {
	var b [frameHeaderBytes]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return Frame{}, io.EOF
		}
		return Frame{}, readError(err, "frame header")
	}
	h, err := parseHeader(b[:], r.sequence)
	if err != nil {
		return Frame{}, err
	}
	r.received = sized(r.received, int(h.length))
	if _, err := io.ReadFull(r.r, r.received); err != nil {
		return Frame{}, readError(err, h.typ.String()+" frame")
	}
	if checksum(b[:], r.received) != h.checksum {
		return Frame{}, failf(CodeChecksum, "%v frame %d has a wrong checksum", h.typ, h.sequence)
	}
	payload, err := r.unpack(h)
	if err != nil {
		return Frame{}, err
	}
	r.sequence++
	return Frame{Type: h.typ, Stream: h.stream, Payload: payload}, nil
}

// unpack decompresses into a buffer of exactly the declared size, so that no input can make it grow.
func (r *Reader) unpack(h header) ([]byte, error) {
	if h.codec == CodecRaw {
		return r.received, nil
	}
	if r.decoder == nil {
		decoder, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(MaxPayloadBytes),
			zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true),
		)
		if err != nil {
			return nil, failf(CodeCodec, "make decoder: %v", err)
		}
		r.decoder = decoder
	}
	r.unpacked = sized(r.unpacked, int(h.rawLength))
	out, err := r.decoder.DecodeAll(r.received, r.unpacked[:0:h.rawLength])
	if err != nil {
		return nil, failf(CodeCodec, "%v frame %d does not decompress: %v", h.typ, h.sequence, err)
	}
	if len(out) != int(h.rawLength) {
		return nil, failf(CodeCodec, "%v frame %d decompresses to %d bytes, claims %d", h.typ, h.sequence, len(out), h.rawLength)
	}
	return out, nil
}

// Frames returns the number of frames received.
func (r *Reader) Frames() uint64 { return r.sequence }

// sized returns b with n bytes, on new memory where b is too small. n is bounded by the caller.
func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
