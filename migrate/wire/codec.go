package wire

import (
	"fmt"
	"math"
	"time"
)

// Codec says how a payload is packed. On the wire it is CodecRaw or CodecZstd.
type Codec uint8

// The codecs.
const (
	CodecRaw  Codec = 0
	CodecZstd Codec = 1

	// CodecAuto chooses one of the two for each frame. It is a Writer's setting and never on the wire.
	CodecAuto Codec = 255
)

// String returns the name that --compress takes.
func (c Codec) String() string {
	switch c {
	case CodecRaw:
		return "none"
	case CodecZstd:
		return "zstd"
	case CodecAuto:
		return "auto"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// ParseCodec reads the value of --compress: auto, zstd or none.
func ParseCodec(name string) (Codec, error) {
	for _, c := range []Codec{CodecAuto, CodecZstd, CodecRaw} {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("compression %q: want auto, zstd or none", name)
}

// Rates are what CodecAuto decides by, all measured on one connection. Zero means not known.
type Rates struct {
	LinkBytesPerSecond     float64 // what the link takes, of bytes as sent
	CompressBytesPerSecond float64 // what one goroutine compresses, of bytes as given
	Ratio                  float64 // compressed size / given size
}

// minCompressGain is how much faster compression must make a connection before it is worth the CPU that it takes
// from the sandbox.
const minCompressGain = 1.15

// Choose returns the codec that moves pages faster: compressing and sending overlap, so a compressed connection
// runs at the slower of the two. Where a rate is not known, or is no number, it returns CodecRaw.
func Choose(r Rates) Codec {
	for _, x := range []float64{r.LinkBytesPerSecond, r.CompressBytesPerSecond, r.Ratio} {
		if !(x > 0) || math.IsInf(x, 0) {
			return CodecRaw
		}
	}
	compressed := min(r.CompressBytesPerSecond, r.LinkBytesPerSecond/r.Ratio)
	if compressed >= r.LinkBytesPerSecond*minCompressGain {
		return CodecZstd
	}
	return CodecRaw
}

const (
	// probeFrames is how often a Writer that sends raw compresses one frame, to keep its Rates true.
	probeFrames = 64
	// meterWeight is the weight of the newest measurement in the moving averages.
	meterWeight = 0.25
	// minMeterBytes is the least payload whose timing says something.
	minMeterBytes = 32 << 10
)

// meter measures Rates as moving averages.
type meter struct {
	rates  Rates
	frames uint64 // compressible frames seen
}

// choose returns the codec for the next compressible frame: the better one, or now and then a probe.
func (m *meter) choose() Codec {
	probe := m.frames%probeFrames == 0
	m.frames++
	if probe {
		return CodecZstd
	}
	return Choose(m.rates)
}

func (m *meter) compressed(rawBytes, packedBytes int, took time.Duration) {
	if rawBytes < minMeterBytes {
		return
	}
	average(&m.rates.CompressBytesPerSecond, perSecond(rawBytes, took))
	average(&m.rates.Ratio, float64(packedBytes)/float64(rawBytes))
}

func (m *meter) sent(wireBytes int, took time.Duration) {
	if wireBytes >= minMeterBytes {
		average(&m.rates.LinkBytesPerSecond, perSecond(wireBytes, took))
	}
}

// perSecond treats what took no measurable time as a microsecond.
func perSecond(n int, took time.Duration) float64 {
	return float64(n) / max(took, time.Microsecond).Seconds()
}

func average(mean *float64, sample float64) {
	if *mean == 0 {
		*mean = sample
		return
	}
	*mean += meterWeight * (sample - *mean)
}
