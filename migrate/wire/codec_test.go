package wire

import (
	"math"
	"testing"
)

func TestChoose(t *testing.T) {
	const mb = 1e6
	for _, test := range []struct {
		name  string
		rates Rates
		want  Codec
	}{
		{"nothing measured", Rates{}, CodecRaw},
		{"1 Gbit/s, good pages", Rates{125 * mb, 600 * mb, 0.4}, CodecZstd},
		{"1 Gbit/s, pages that do not compress", Rates{125 * mb, 2000 * mb, 0.99}, CodecRaw},
		{"10 Gbit/s, compressing is slower", Rates{1250 * mb, 600 * mb, 0.4}, CodecRaw},
		{"compressing is only a little faster", Rates{550 * mb, 600 * mb, 0.4}, CodecRaw},
		{"a modem", Rates{7000, 600 * mb, 0.9}, CodecRaw},
		{"a modem, good pages", Rates{7000, 600 * mb, 0.5}, CodecZstd},
		{"compresses to nothing", Rates{125 * mb, 600 * mb, 1e-300}, CodecZstd},
		{"NaN link", Rates{math.NaN(), 600 * mb, 0.4}, CodecRaw},
		{"infinite link", Rates{math.Inf(1), 600 * mb, 0.4}, CodecRaw},
		{"NaN ratio", Rates{125 * mb, 600 * mb, math.NaN()}, CodecRaw},
		{"negative ratio", Rates{125 * mb, 600 * mb, -1}, CodecRaw},
		{"infinite compressor", Rates{125 * mb, math.Inf(1), 0.4}, CodecRaw},
	} {
		if got := Choose(test.rates); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range []Codec{CodecRaw, CodecZstd, CodecAuto} {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCodec("gzip"); err == nil {
		t.Error("gzip is taken")
	}
}
