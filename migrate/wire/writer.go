package wire

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

// WriterOptions are the choices of a Writer.
type WriterOptions struct {
	// Codec packs payloads: CodecRaw (the default), CodecZstd, or CodecAuto.
	Codec Codec

	// now replaces the clock in tests.
	now func() time.Time
}

// WriterStats counts what a Writer did.
type WriterStats struct {
	Frames    uint64
	RawBytes  uint64 // payloads as given
	WireBytes uint64 // payloads and headers as sent
	Rates     Rates  // measured with CodecAuto only
}

// Writer sends frames on one data connection. It is not safe for concurrent use: each connection has one sender.
type Writer struct {
	w        *bufio.Writer
	options  WriterOptions
	sequence uint64
	stats    WriterStats
	meter    meter
	encoder  *zstd.Encoder
	packed   []byte // reused for compressed payloads
	err      error  // of an earlier write: the connection is dead
}

// NewWriter returns a Writer on w. The caller flushes and closes.
func NewWriter(w io.Writer, options WriterOptions) (*Writer, error) {
	if options.now == nil {
		options.now = time.Now
	}
	out := &Writer{w: bufio.NewWriterSize(w, 64<<10), options: options}
	if options.Codec == CodecRaw {
		return out, nil
	}
	encoder, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		// The frame has a checksum of its own.
		zstd.WithEncoderCRC(false),
		zstd.WithLowerEncoderMem(true),
	)
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	out.encoder = encoder
	return out, nil
}

// WriteFrame sends one frame. payload is not kept. After an error every further call returns it.
func (w *Writer) WriteFrame(t Type, stream uint16, payload []byte) error {
	if w.err != nil {
		return w.err
	}
	if len(payload) > MaxPayloadBytes || !t.known() || stream >= MaxStreams {
		return fmt.Errorf("send %v frame of %d bytes on stream %d: out of bounds", t, len(payload), stream)
	}
	body, codec := w.pack(t, payload)
	h := header{
		length: uint32(len(body)), typ: t, codec: codec, stream: stream,
		sequence: w.sequence, rawLength: uint32(len(payload)),
	}
	var b [frameHeaderBytes]byte
	h.put(b[:], body)
	if err := w.send(b[:], body); err != nil {
		w.err = fmt.Errorf("send %v frame: %w", t, err)
		return w.err
	}
	w.sequence++
	w.stats.Frames++
	w.stats.RawBytes += uint64(len(payload))
	w.stats.WireBytes += uint64(len(body) + frameHeaderBytes)
	return nil
}

// pack compresses where that is asked for and makes the payload smaller.
func (w *Writer) pack(t Type, payload []byte) ([]byte, Codec) {
	codec := w.options.Codec
	if !t.compressible() || len(payload) == 0 {
		codec = CodecRaw
	}
	if codec == CodecAuto {
		codec = w.meter.choose()
	}
	if codec == CodecRaw {
		return payload, CodecRaw
	}
	began := w.options.now()
	w.packed = w.encoder.EncodeAll(payload, w.packed[:0])
	w.meter.compressed(len(payload), len(w.packed), w.options.now().Sub(began))
	if len(w.packed) >= len(payload) {
		return payload, CodecRaw
	}
	return w.packed, CodecZstd
}

// send writes and measures: time spent here is time that the link made us wait.
func (w *Writer) send(header, body []byte) error {
	began := w.options.now()
	if _, err := w.w.Write(header); err != nil {
		return err
	}
	if _, err := w.w.Write(body); err != nil {
		return err
	}
	if w.options.Codec == CodecAuto {
		w.meter.sent(len(body), w.options.now().Sub(began))
	}
	return nil
}

// Flush sends what is buffered.
func (w *Writer) Flush() error {
	if w.err == nil {
		if err := w.w.Flush(); err != nil {
			w.err = fmt.Errorf("send frames: %w", err)
		}
	}
	return w.err
}

// Stats returns the counts so far.
func (w *Writer) Stats() WriterStats {
	stats := w.stats
	stats.Rates = w.meter.rates
	return stats
}
