package image

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestFramesRoundTrip(t *testing.T) {
	random := randomPages(1, FramePages)
	hexadecimal := make([]byte, frameBytes)
	hex.Encode(hexadecimal, random[:frameBytes/2])
	repeated := bytes.Repeat(random[:3*PageBytes+17], 6)[:frameBytes] // looks random, and is not
	for name, test := range map[string]struct {
		raw     []byte
		atMost  int // bytes encoded; 0: not at all
		looksIt bool
	}{
		"random":   {random, 0, true},
		"hex":      {hexadecimal, frameBytes * 51 / 100, false},
		"repeated": {repeated, frameBytes / 2, true},
		"text":     {textLike(rand.New(rand.NewPCG(1, 1)), frameBytes), frameBytes / 2, false},
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

func TestTagDependsOnKeyAndEveryByte(t *testing.T) {
	page := randomPages(1, 1)
	one, other := newTagger(tagKey{1}), newTagger(tagKey{2})
	want := one.tag(page)
	if other.tag(page) == want {
		t.Error("the tag does not depend on the key")
	}
	for i := range page {
		page[i] ^= 1 << (i % 8)
		if one.tag(page) == want {
			t.Errorf("the tag does not depend on byte %d", i)
		}
		page[i] ^= 1 << (i % 8)
	}
	if one.tag(page) != want || newTagger(tagKey{1}).tag(page) != want {
		t.Error("equal pages have different tags")
	}
}
