package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

// sentFrame is what a test sends and expects back.
type sentFrame struct {
	typ     Type
	stream  uint16
	payload []byte
}

func sampleFrames() []sentFrame {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var batch PageBatch
	copy(batch.Data(7, 2), bytes.Repeat([]byte("page "), 2000))
	batch.Zero(100, 1<<20)
	batch.Duplicate(9, 2, 7)
	return []sentFrame{
		{TypePages, 0, bytes.Clone(batch.Payload())},
		{TypePunch, 3, AppendRanges(nil, []Range{{1, 1}, {3, 9}})},
		{TypeState, 0, bytes.Repeat([]byte("state"), 50_000)},
		{TypeState, 0, noise},
		{TypeMeta, 0, []byte{}},
		{TypeCommitted, 0, AppendRanges(nil, []Range{{0, 5}, {7, 2}})},
		{TypeMissing, 0, AppendRanges(nil, []Range{{7, 2}})},
		{TypeBarrier, 0, AppendBarrier(nil, 1<<60)},
		{TypeRequest, 0, AppendRanges(nil, []Range{{9, 1}, {7, 1}})},
		{TypeSum, 0, make([]byte, DigestBytes)},
		{TypeEnd, 0, AppendEnd(nil, End{TypeState, 350_000})},
		{TypePacket, 1, noise[:1500]},
	}
}

func encode(t testing.TB, codec Codec, frames []sentFrame) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, WriterOptions{Codec: codec})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := w.WriteFrame(f.typ, f.stream, f.payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := w.Stats().WireBytes; got != uint64(out.Len()) {
		t.Fatalf("stats count %d bytes of %d", got, out.Len())
	}
	return out.Bytes()
}

func TestFramesArriveAsSent(t *testing.T) {
	for _, codec := range []Codec{CodecRaw, CodecZstd, CodecAuto} {
		t.Run(codec.String(), func(t *testing.T) {
			want := sampleFrames()
			sent := encode(t, codec, want)
			r := NewReader(bytes.NewReader(sent))
			for i, f := range want {
				got, err := r.Next()
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if got.Type != f.typ || got.Stream != f.stream || !bytes.Equal(got.Payload, f.payload) {
					t.Fatalf("frame %d: got %v on %d with %d bytes", i, got.Type, got.Stream, len(got.Payload))
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Fatalf("after the last frame: %v", err)
			}
			if codec == CodecZstd && len(sent) > 150_000 {
				t.Fatalf("compressed to %d bytes only", len(sent))
			}
		})
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	whole := encode(t, CodecZstd, []sentFrame{{TypeMeta, 0, []byte("abc")}, {TypeBarrier, 0, AppendBarrier(nil, 1)}})
	for n := range whole {
		r := NewReader(bytes.NewReader(whole[:n]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		atBoundary := n == 0 || n == frameHeaderBytes+3
		if atBoundary && err != io.EOF || !atBoundary && !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	whole := encode(t, CodecRaw, []sentFrame{{TypeBarrier, 0, AppendBarrier(nil, 1)}})
	for bit := range len(whole) * 8 {
		damaged := bytes.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		var wrong *Error
		if _, err := NewReader(bytes.NewReader(damaged)).Next(); !errors.As(err, &wrong) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
}

func TestReplayedFrameIsRefused(t *testing.T) {
	one := encode(t, CodecRaw, []sentFrame{{TypeMeta, 0, []byte("abc")}})
	r := NewReader(bytes.NewReader(append(bytes.Clone(one), one...)))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, ErrSequence) {
			t.Fatalf("replayed frame: %v", err)
		}
	}
}

// frameBytes makes a frame with a right checksum from a header that may say anything.
func frameBytes(h header, payload []byte) []byte {
	b := make([]byte, frameHeaderBytes)
	h.put(b, payload)
	return append(b, payload...)
}

func TestHeaderClaims(t *testing.T) {
	// A reader that believed the claims would wait for bytes that never come, or allocate them.
	for _, test := range []struct {
		name string
		h    header
		body []byte
		want error
	}{
		{"4 GiB", header{typ: TypeState, length: 1<<32 - 1, rawLength: 1<<32 - 1}, nil, ErrLength},
		{"one too many", header{typ: TypeState, length: MaxPayloadBytes + 1, rawLength: MaxPayloadBytes + 1}, nil, ErrLength},
		{"decompresses to 4 GiB", header{typ: TypeState, codec: CodecZstd, length: 3, rawLength: 1<<32 - 1}, []byte("abc"), ErrLength},
		{"raw of two lengths", header{typ: TypeState, length: 3, rawLength: 4}, []byte("abc"), ErrLength},
		{"type 0", header{}, nil, ErrType},
		{"type 99", header{typ: 99}, nil, ErrType},
		{"codec 7", header{typ: TypeState, codec: 7}, nil, ErrCodec},
		{"codec auto", header{typ: TypeState, codec: CodecAuto}, nil, ErrCodec},
		{"stream 65535", header{typ: TypeState, stream: 65535}, nil, ErrLength},
		{"late sequence", header{typ: TypeState, sequence: 1}, nil, ErrSequence},
		{"not zstd", header{typ: TypeState, codec: CodecZstd, length: 3, rawLength: 9}, []byte("abc"), ErrCodec},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewReader(bytes.NewReader(frameBytes(test.h, test.body))).Next()
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestCompressedFrameMustKeepItsPromise(t *testing.T) {
	w, err := NewWriter(io.Discard, WriterOptions{Codec: CodecZstd})
	if err != nil {
		t.Fatal(err)
	}
	bomb := w.encoder.EncodeAll(make([]byte, 64<<20), nil)
	for _, claim := range []uint32{0, 1, MaxPayloadBytes} {
		h := header{typ: TypeState, codec: CodecZstd, length: uint32(len(bomb)), rawLength: claim}
		if _, err := NewReader(bytes.NewReader(frameBytes(h, bomb))).Next(); !errors.Is(err, ErrCodec) {
			t.Errorf("64 MiB of zeros that claim to be %d bytes: %v", claim, err)
		}
	}
	short := w.encoder.EncodeAll([]byte("abc"), nil)
	h := header{typ: TypeState, codec: CodecZstd, length: uint32(len(short)), rawLength: 4}
	if _, err := NewReader(bytes.NewReader(frameBytes(h, short))).Next(); !errors.Is(err, ErrCodec) {
		t.Errorf("3 bytes that claim to be 4: %v", err)
	}
}

func TestWriterRefusesWhatReadersRefuse(t *testing.T) {
	w, err := NewWriter(io.Discard, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if w.WriteFrame(TypeState, 0, make([]byte, MaxPayloadBytes+1)) == nil ||
		w.WriteFrame(0, 0, nil) == nil || w.WriteFrame(TypeState, MaxStreams, nil) == nil {
		t.Fatal("sent what no reader takes")
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestWriterRemembersItsFirstError(t *testing.T) {
	cut := errors.New("link cut")
	w, err := NewWriter(brokenWriter{cut}, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, MaxPayloadBytes)
	if err := w.WriteFrame(TypeState, 0, big); !errors.Is(err, cut) {
		t.Fatal(err)
	}
	if err := w.WriteFrame(TypeState, 0, nil); !errors.Is(err, cut) {
		t.Fatal("a frame after a torn one was taken")
	}
	if err := w.Flush(); !errors.Is(err, cut) {
		t.Fatal("flush after a torn frame succeeded")
	}
}

// slowLink is a writer whose writes take as long as a link of a given rate would, on a clock of its own.
type slowLink struct {
	now            time.Time
	bytesPerSecond float64
	wrote          bool
}

func (l *slowLink) Write(p []byte) (int, error) {
	l.now = l.now.Add(time.Duration(float64(len(p)) / l.bytesPerSecond * float64(time.Second)))
	l.wrote = true
	return len(p), nil
}

// clock makes everything between two looks at it that is no write take 500 µs: 1 MB compresses at 2 GB/s.
func (l *slowLink) clock() time.Time {
	if !l.wrote {
		l.now = l.now.Add(500 * time.Microsecond)
	}
	l.wrote = false
	return l.now
}

func TestAutoCompressesOnASlowLinkOnly(t *testing.T) {
	for _, test := range []struct {
		name           string
		bytesPerSecond float64
		compresses     bool
	}{
		{"100 Mbit/s", 12.5e6, true},
		{"100 GB/s", 100e9, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			link := &slowLink{bytesPerSecond: test.bytesPerSecond}
			w, err := NewWriter(link, WriterOptions{Codec: CodecAuto, now: link.clock})
			if err != nil {
				t.Fatal(err)
			}
			// Half noise, half text, as memory is.
			random := rand.New(rand.NewPCG(3, 4))
			payload := bytes.Repeat([]byte("as memory is: "), 1_000_000/14)
			for i := range len(payload) / 2 {
				payload[i] = byte(random.Uint32())
			}
			for range 3 * probeFrames {
				if err := w.WriteFrame(TypeState, 0, payload); err != nil {
					t.Fatal(err)
				}
			}
			stats := w.Stats()
			share := float64(stats.WireBytes) / float64(stats.RawBytes)
			if compressed := share < 0.7; compressed != test.compresses {
				t.Fatalf("sent %.2f of the bytes; rates %+v", share, stats.Rates)
			}
		})
	}
}

func FuzzReader(f *testing.F) {
	for _, codec := range []Codec{CodecRaw, CodecZstd} {
		for _, frame := range sampleFrames() {
			if len(frame.payload) > 20_000 {
				frame.payload = frame.payload[:1000]
			}
			f.Add(encode(f, codec, []sentFrame{frame}))
		}
	}
	f.Add(frameBytes(header{typ: TypeState, length: 1<<32 - 1, rawLength: 1<<32 - 1}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for {
			frame, err := r.Next()
			if err != nil {
				if _, again := r.Next(); again != err {
					t.Fatalf("error changed from %v to %v", err, again)
				}
				return
			}
			if len(frame.Payload) > MaxPayloadBytes || !frame.Type.known() || frame.Stream >= MaxStreams {
				t.Fatalf("frame out of bounds: %v on %d, %d bytes", frame.Type, frame.Stream, len(frame.Payload))
			}
			parsePayload(t, frame)
		}
	})
}

// parsePayload hands a frame to its parser and checks what must hold for everything that a parser lets pass.
func parsePayload(t *testing.T, frame Frame) {
	const filePages = 1 << 20
	switch frame.Type {
	case TypePages:
		checkPages(t, frame.Payload, filePages)
	case TypePunch, TypeCommitted, TypeMissing:
		checkRanges(t, frame.Payload, filePages)
	case TypeRequest:
		ParseRequest(nil, frame.Payload, filePages)
	case TypeSum:
		ParseSum(frame.Payload)
	case TypeBarrier:
		ParseBarrier(frame.Payload)
	case TypeEnd:
		ParseEnd(frame.Payload)
	}
}

func BenchmarkWritePages(b *testing.B) {
	for _, codec := range []Codec{CodecRaw, CodecZstd} {
		b.Run(codec.String(), func(b *testing.B) {
			w, err := NewWriter(io.Discard, WriterOptions{Codec: codec})
			if err != nil {
				b.Fatal(err)
			}
			var batch PageBatch
			data := batch.Data(0, MaxBatchPages)
			for i := range data {
				data[i] = byte(binary.LittleEndian.Uint32([]byte{byte(i), byte(i >> 8), 0, 0}) * 2654435761 >> 28)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := w.WriteFrame(TypePages, 0, batch.Payload()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
