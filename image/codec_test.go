package image

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestFramesRoundTrip(t *testing.T) {
	random := randomPages(1, FramePages)
	hexadecimal := make([]byte, frameBytes)
	hex.Encode(hexadecimal, random[:frameBytes/2])
	repeated := bytes.Repeat(random[:3*PageBytes+17], 6)[:frameBytes] // looks random, and is not
	gaps := slices.Clone(random)                                      // as an allocator leaves them
	for at := 0; at+1280 <= len(gaps); at += 1280 {
		clear(gaps[at+1029 : at+1280])
	}
	for name, test := range map[string]struct {
		raw     []byte
		atMost  int // bytes encoded; 0: not at all
		looksIt bool
	}{
		"random":   {random, 0, true},
		"hex":      {hexadecimal, frameBytes * 51 / 100, false},
		"repeated": {repeated, frameBytes / 2, true},
		"text":     {textLike(rand.New(rand.NewPCG(1, 1)), frameBytes), frameBytes / 2, false},
		"gaps":     {gaps, frameBytes * 82 / 100, true},
		"one page": {textLike(rand.New(rand.NewPCG(1, 1)), PageBytes), PageBytes / 2, false},
		"constant": {bytes.Repeat([]byte{7}, frameBytes), 64, false},
	} {
		if got := looksRandom(test.raw); got != test.looksIt {
			t.Errorf("%s: looksRandom is %v", name, got)
		}
		encoder, err := newFrameEncoder(zstd.SpeedFastest)
		if err != nil {
			t.Fatal(err)
		}
		before := []byte("before")
		encoded := encoder.encode(before, test.raw)
		if string(before) != "before" || (encoded == nil) != (test.atMost == 0) || len(encoded) > test.atMost {
			t.Errorf("%s: %d bytes became %d, want at most %d", name, len(test.raw), len(encoded), test.atMost)
		}
		if encoded == nil {
			continue
		}
		decoder, err := newFrameDecoder(1)
		if err != nil {
			t.Fatal(err)
		}
		f := frame{codec: codecZstd, pages: uint8(len(test.raw) / PageBytes)}
		got, err := decodeFrame(decoder, f, encoded, make([]byte, len(test.raw)))
		if err != nil || !bytes.Equal(got, test.raw) {
			t.Errorf("%s: came back different: %v", name, err)
		}
		f.pages--
		if _, err := decodeFrame(decoder, f, encoded, make([]byte, len(test.raw)-PageBytes)); err == nil {
			t.Errorf("%s: a frame with a page more than the index says was accepted", name)
		}
		decoder.Close()
	}
}

// Memory that hardly compresses is tried less and less, and memory that does is noticed soon.
func TestEncoderSkipsWhatHardlyCompresses(t *testing.T) {
	encoder, err := newFrameEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	random := randomPages(1, FramePages)
	for range 200 {
		if encoder.encode(nil, random) != nil {
			t.Fatal("a random frame became smaller")
		}
	}
	if encoder.skipped != maxSkip {
		t.Errorf("skips %d frames after 200 that were random, want %d", encoder.skipped, maxSkip)
	}
	// What looks otherwise is tried at once, and does not change that.
	text := textLike(rand.New(rand.NewPCG(1, 1)), frameBytes)
	for range 3 {
		if encoder.encode(nil, text) == nil {
			t.Error("text was not compressed")
		}
	}
	// What looks random and does compress is noticed soon.
	repeated, first := bytes.Repeat(random[:2*PageBytes], FramePages/2), -1
	for i := range 100 {
		encoded := encoder.encode(nil, repeated)
		if first < 0 && encoded != nil {
			first = i
		}
		if first >= 0 && encoded == nil {
			t.Errorf("frame %d was not compressed, %d behind the first that was", i, i-first)
		}
	}
	if first < 0 || first > maxSkip {
		t.Errorf("the first that was compressed was frame %d, want at most %d", first, maxSkip)
	}
}

// Text is coded by frequency. Where random bytes stand between what is repeated, that would gain nothing, and is not done.
func TestEncoderCodesByFrequencyWhereThatHelps(t *testing.T) {
	encoder, err := newFrameEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	text := textLike(rand.New(rand.NewPCG(1, 1)), frameBytes)
	records := randomPages(1, FramePages)
	for at := 0; at < len(records); at += 1024 {
		for line := at; line < at+512; line += 32 { // repeated but for a number, as the fields of records are
			copy(records[line:line+28], "name=value size=1024 state=a")
		}
	}
	if looksRandom(records) {
		t.Fatal("the records look random")
	}
	// Small integers between random bytes: the zeros in them are what is frequent.
	integers := randomPages(2, FramePages)
	for at := range integers {
		if at%4 >= 2 {
			integers[at] = 0
		}
	}
	for at := 0; at < len(integers); at += 256 {
		copy(integers[at:], "name=value size=1024 state=a; values follow, 48 of them:")
	}
	plain, coded := encoder.matching.EncodeAll(integers, nil), encoder.entropy.EncodeAll(integers, nil)
	if encoded := encoder.encode(nil, integers); len(coded) > len(plain)*3/4 || len(encoded) != len(coded) {
		t.Errorf("integers became %d bytes, want the %d that coding by frequency makes of them and not %d", len(encoded), len(coded), len(plain))
	}
	encoder.entropyFor = 0
	for range 2 {
		encoded := encoder.encode(nil, records)
		if encoder.entropyFor != 0 || len(encoded) > frameBytes*60/100 {
			t.Errorf("records became %d bytes of %d, and the next %d frames are coded by frequency, want none", len(encoded), frameBytes, encoder.entropyFor)
		}
		for i := range entropyRun + 1 {
			encoded = encoder.encode(nil, text)
			if want := entropyRun - i; encoder.entropyFor != want || len(encoded) > frameBytes/2 {
				t.Errorf("text became %d bytes of %d, and the next %d frames are coded by frequency, want %d", len(encoded), frameBytes, encoder.entropyFor, want)
			}
		}
	}
}

func TestTagDependsOnKeyAndEveryByte(t *testing.T) {
	var tagger tagger
	one, other := tagKey{1}.mac(), tagKey{2}.mac()
	for _, data := range [][]byte{randomPages(1, 1), randomPages(2, 3)} {
		tag := tagger.tag
		if len(data) > PageBytes {
			tag = tagger.frameTag
		}
		want := tag(one, data)
		if tag(other, data) == want {
			t.Error("the tag does not depend on the key")
		}
		for i := range data {
			data[i] ^= 1 << (i % 8)
			if tag(one, data) == want {
				t.Errorf("the tag does not depend on byte %d", i)
			}
			data[i] ^= 1 << (i % 8)
		}
		if tag(one, data) != want || tag(tagKey{1}.mac(), data) != want {
			t.Error("equal data have different tags")
		}
	}
	pages := randomPages(3, 2)
	swapped := append(slices.Clone(pages[PageBytes:]), pages[:PageBytes]...)
	if tagger.frameTag(one, pages) == tagger.frameTag(one, swapped) {
		t.Error("the tag of a frame does not depend on the order of its pages")
	}
}
