package image

import (
	"slices"

	"github.com/klauspost/compress/zstd"
)

// How the bytes of a frame are stored.
const (
	codecRaw  = 0
	codecZstd = 1
)

// Compression is how a writer stores frames and what it may cost.
type Compression string

// The ways to store frames. A frame that compression would not make smaller is stored raw in any case.
const (
	CompressionZstd Compression = "zstd" // the default
	CompressionNone Compression = "none"
)

// A frameEncoder encodes frames that come from about the same part of memory, for one goroutine at a time.
type frameEncoder struct {
	matching *zstd.Encoder // replaces repeated sequences and leaves the other bytes as they are: 5 GB/s where nothing is repeated
	entropy  *zstd.Encoder // also codes the other bytes by frequency, which is what shrinks text, and takes half as long again

	skip    int // frames that look random to store raw before the next one is tried
	skipped int // how many the last time

	entropyFor int // frames that do not look random to code by frequency before it is asked again whether that helps
}

// Frames that look random and gain less than 1/minGain of their size are not worth the time: memory full of random values with
// small headers, such as that of a key-value store, compresses by 3 % and takes 20 times as long as to store it. After such a
// frame more and more of its kind are not tried, up to maxSkip.
const (
	minGain = 16
	maxSkip = 31
)

// entropyRun is how many frames are coded by frequency once that helped one: to find out takes a second encoding.
const entropyRun = 7

func newFrameEncoder(level zstd.EncoderLevel) (*frameEncoder, error) {
	options := []zstd.EOption{
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // pages have tags
		zstd.WithWindowSize(frameBytes),
	}
	matching, err := zstd.NewWriter(nil, append(slices.Clone(options), zstd.WithNoEntropyCompression(true))...)
	if err != nil {
		return nil, &Error{Code: CodeConfig, Err: err}
	}
	entropy, err := zstd.NewWriter(nil, append(slices.Clone(options), zstd.WithAllLitEntropyCompression(true))...)
	if err != nil {
		return nil, &Error{Code: CodeConfig, Err: err}
	}
	return &frameEncoder{matching: matching, entropy: entropy}, nil
}

// encode returns a frame encoded, behind out in the same memory if that suffices: nil if it is better stored raw.
func (e *frameEncoder) encode(out, raw []byte) []byte {
	if looksRandom(raw) {
		return e.encodeRandom(out, raw)
	}
	if e.entropyFor > 0 {
		e.entropyFor--
		return ifSmaller(e.entropy.EncodeAll(raw, out)[len(out):], raw)
	}
	encoded := e.matching.EncodeAll(raw, out)[len(out):]
	if !evenBytes(encoded, 0) { // what is not repeated could be coded by frequency
		e.entropyFor = entropyRun
		encoded = e.entropy.EncodeAll(raw, out)[len(out):]
	}
	return ifSmaller(encoded, raw)
}

// encodeRandom encodes a frame that looks random, if it seems worth the time.
func (e *frameEncoder) encodeRandom(out, raw []byte) []byte {
	if e.skip > 0 {
		e.skip--
		return nil
	}
	encoded := e.matching.EncodeAll(raw, out)[len(out):]
	if len(raw)-len(encoded) < len(raw)/minGain {
		e.skipped = min(2*e.skipped+1, maxSkip)
		e.skip = e.skipped
	} else {
		e.skipped = 0
	}
	return ifSmaller(encoded, raw)
}

func ifSmaller(encoded, raw []byte) []byte {
	if len(encoded) >= len(raw) {
		return nil
	}
	return encoded
}

// looksRandom says whether the bytes of a frame, without those that are zero, are about equally frequent: zeros stand in runs, as a rule. Then coding
// bytes by frequency gains nothing that looking for repetitions does not, and takes longer.
func looksRandom(raw []byte) bool { return evenBytes(raw, 1) }

// evenBytes samples data: whether the bytes from least on that are in it are about equally frequent.
func evenBytes(data []byte, least int) bool {
	// Stretches from all over it, as pages differ from each other, at a distance that records are not likely to have.
	const stretch, distance = 32, 1009
	var counts [256]uint16
	var samples, squares uint64
	for at := 0; at+stretch <= len(data); at += distance {
		for _, b := range data[at : at+stretch] {
			counts[b]++
		}
	}
	for _, n := range counts[least:] {
		samples += uint64(n)
		squares += uint64(n) * uint64(n)
	}
	// Random bytes have samples + samples²/255 squares on average; those of text or machine code have many times as much.
	uniform := samples + samples*samples/255
	return samples >= 64 && squares < uniform+uniform/2
}

// newFrameDecoder returns a decoder that any number of goroutines may use, and that never makes more of a frame than
// frameBytes.
func newFrameDecoder(concurrency int) (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(concurrency),
		zstd.WithDecoderMaxMemory(frameBytes),
		zstd.WithDecoderMaxWindow(frameBytes),
	)
}

// decodeSlack is how far the decoder likes to write behind the end of a frame.
const decodeSlack = 64

// decodeFrame returns the pages of a frame: stored itself if it is raw, else in out, which has the length
// of the pages. What is between length and capacity of out may change; decodeSlack bytes there make it faster.
func decodeFrame(decoder *zstd.Decoder, f frame, stored, out []byte) ([]byte, error) {
	if f.codec == codecRaw {
		return stored, nil // its length was checked with the index
	}
	raw, err := decoder.DecodeAll(stored, out[:0])
	if err != nil {
		return nil, err
	}
	if len(raw) != int(f.pages)*PageBytes {
		return nil, failf(CodeDamaged, "", "decompressed to %d bytes instead of %d", len(raw), int(f.pages)*PageBytes)
	}
	return raw, nil
}
