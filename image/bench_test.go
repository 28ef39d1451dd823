package image

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// benchMiB is the memory of the benchmarks: half random, half like text.
const benchMiB = 1024

// newMemfd returns a sealed memory file with content, as a sandbox has.
func newMemfd(tb testing.TB, content []byte) *os.File {
	tb.Helper()
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "memory")
	tb.Cleanup(func() { _ = file.Close() })
	if _, err := file.WriteAt(content, 0); err != nil {
		tb.Fatal(err)
	}
	return file
}

var benchWords = []string{"alpha", "the ", "quick ", "brown", " fox ", "{\"id\":", "value", "\n", "0x7f", "redis", "SELECT ", "127.0.0.1"}

// textLike returns bytes with words and numbers that compress to about a third.
func textLike(r *rand.Rand, n int) []byte {
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(out, benchWords[r.IntN(len(benchWords))]...)
		if r.IntN(4) == 0 {
			out = strconv.AppendUint(out, r.Uint64N(1e9), 10)
		}
	}
	return out[:n]
}

func benchMemory() []byte {
	seed := rand.NewChaCha8([32]byte{1})
	memory := make([]byte, benchMiB<<20)
	for at := 0; at < len(memory); at += 2 << 20 {
		_, _ = seed.Read(memory[at : at+1<<20])
		copy(memory[at+1<<20:at+2<<20], textLike(rand.New(seed), 1<<20))
	}
	return memory
}

func BenchmarkWrite(b *testing.B) {
	memory := newMemfd(b, benchMemory())
	for _, test := range []struct {
		name    string
		options WriterOptions
	}{
		{"none", WriterOptions{Compression: CompressionNone, NoSync: true}},
		{"zstd", WriterOptions{NoSync: true}},
		{"none-sync", WriterOptions{Compression: CompressionNone}},
		{"zstd-sync", WriterOptions{}},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.SetBytes(benchMiB << 20)
			var total int64
			for b.Loop() {
				b.StopTimer()
				store, err := CreateStore(b.TempDir() + "/image")
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				w, err := store.NewWriter(context.Background(), test.options)
				if err != nil {
					b.Fatal(err)
				}
				if err := w.AddFrom(context.Background(), 0, memory, []Run{{0, benchMiB << 8}}); err != nil {
					b.Fatal(err)
				}
				config := testConfig()
				config.Memory = []MemoryFile{{ID: 0, SizeBytes: benchMiB << 20}}
				if _, err := w.Commit("latest", config); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				img, err := store.Open(context.Background(), "latest", OpenOptions{})
				if err != nil {
					b.Fatal(err)
				}
				total = img.Stats().TotalBytes
				_ = img.Close()
				_ = os.RemoveAll(store.Dir())
				b.StartTimer()
			}
			b.ReportMetric(float64(total)/(benchMiB<<20), "image/memory")
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	memory := newMemfd(b, benchMemory())
	for _, compression := range []Compression{CompressionNone, CompressionZstd} {
		store, err := CreateStore(b.TempDir() + "/image")
		if err != nil {
			b.Fatal(err)
		}
		w, err := store.NewWriter(context.Background(), WriterOptions{Compression: compression, NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.AddFrom(context.Background(), 0, memory, []Run{{0, benchMiB << 8}}); err != nil {
			b.Fatal(err)
		}
		config := testConfig()
		config.Memory = []MemoryFile{{ID: 0, SizeBytes: benchMiB << 20}}
		if _, err := w.Commit("latest", config); err != nil {
			b.Fatal(err)
		}
		b.Run(string(compression), func(b *testing.B) {
			b.SetBytes(benchMiB << 20)
			for b.Loop() {
				b.StopTimer()
				target := newMemfd(b, nil)
				b.StartTimer()
				img, err := store.Open(context.Background(), "latest", OpenOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if err := img.Load(context.Background(), map[FileID]PageSink{0: SinkTo(target)}, LoadOptions{}); err != nil {
					b.Fatal(err)
				}
				_ = img.Close()
				b.StopTimer()
				_ = target.Close()
				b.StartTimer()
			}
		})
	}
}
