package image

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchBytes is the memory of the benchmarks: half random, half like text.
func benchBytes() int {
	if testing.Short() {
		return 128 << 20
	}
	return 1 << 30
}

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

// benchMemory returns memory of a kind: "mixed" as said above, "records" of 1 KiB random values with headers and pointers, as a
// key-value store has them.
func benchMemory(kind string) []byte {
	seed := rand.NewChaCha8([32]byte{1})
	memory := make([]byte, benchBytes())
	if kind == "records" {
		_, _ = seed.Read(memory)
		for at := 0; at+1152 <= len(memory); at += 1152 {
			copy(memory[at:], fmt.Sprintf("\x00\x04\x00\x04\x02key:%012d\x00\x00\x00%016x%016x", at, at*64, at*65))
			clear(memory[at+1104 : at+1152])
		}
		return memory
	}
	for at := 0; at < len(memory); at += 2 << 20 {
		_, _ = seed.Read(memory[at : at+1<<20])
		copy(memory[at+1<<20:at+2<<20], textLike(rand.New(seed), 1<<20))
	}
	return memory
}

// cpuTime returns what the process has used of all CPUs: the figure to compare on a machine that does other things too.
func cpuTime(tb testing.TB) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func writeImage(tb testing.TB, store *Store, memory io.ReaderAt, options WriterOptions) {
	tb.Helper()
	w, err := store.NewWriter(context.Background(), options)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Abort()
	runs := []Run{{0, uint64(benchBytes() / PageBytes)}}
	if err := w.AddFrom(context.Background(), 0, memory, runs); err != nil {
		tb.Fatal(err)
	}
	config := testConfig()
	config.Memory = []MemoryFile{{ID: 0, SizeBytes: uint64(benchBytes())}}
	if _, err := w.Commit("latest", config); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, test := range []struct {
		name, memory string
		options      WriterOptions
	}{
		{"mixed-none", "mixed", WriterOptions{Compression: CompressionNone, NoSync: true}},
		{"mixed-zstd", "mixed", WriterOptions{NoSync: true}},
		{"records-none", "records", WriterOptions{Compression: CompressionNone, NoSync: true}},
		{"records-zstd", "records", WriterOptions{NoSync: true}},
		{"mixed-none-sync", "mixed", WriterOptions{Compression: CompressionNone}},
		{"mixed-zstd-sync", "mixed", WriterOptions{}},
	} {
		b.Run(test.name, func(b *testing.B) {
			memory := newMemfd(b, benchMemory(test.memory))
			b.SetBytes(int64(benchBytes()))
			var bytes int64
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				store, err := CreateStore(b.TempDir() + "/image")
				if err != nil {
					b.Fatal(err)
				}
				before := cpuTime(b)
				b.StartTimer()
				writeImage(b, store, memory, test.options)
				b.StopTimer()
				cpu += cpuTime(b) - before
				img := openImage(b, store)
				bytes = img.Stats().TotalBytes
				_ = os.RemoveAll(store.Dir())
				b.StartTimer()
			}
			report(b, cpu, bytes)
		})
	}
}

// report adds CPU time for each GiB, and the size of the result as a part of the memory.
func report(b *testing.B, cpu time.Duration, bytes int64) {
	b.ReportMetric(cpu.Seconds()/float64(b.N)/float64(benchBytes())*(1<<30), "cpu-s/GiB")
	if bytes > 0 {
		b.ReportMetric(float64(bytes)/float64(benchBytes()), "size/memory")
	}
}

// BenchmarkPeer is what a checkpoint without hashes, index and deduplication costs at the least: copied, or through flate at best
// speed in pieces of 1 MiB on all CPUs.
func BenchmarkPeer(b *testing.B) {
	for _, test := range []struct {
		name, memory string
		workers      int
		flate        bool
	}{
		{"mixed-copy", "mixed", 1, false},
		{"mixed-flate", "mixed", runtime.GOMAXPROCS(0), true},
		{"records-copy", "records", 1, false},
		{"records-flate", "records", runtime.GOMAXPROCS(0), true},
	} {
		b.Run(test.name, func(b *testing.B) {
			memory := newMemfd(b, benchMemory(test.memory))
			b.SetBytes(int64(benchBytes()))
			var cpu time.Duration
			var bytes int64
			for b.Loop() {
				before := cpuTime(b)
				bytes = peerWrite(b, memory, test.workers, test.flate)
				cpu += cpuTime(b) - before
			}
			report(b, cpu, bytes)
		})
	}
}

func peerWrite(b *testing.B, memory io.ReaderAt, workers int, compress bool) int64 {
	file, err := os.Create(b.TempDir() + "/peer")
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var next, total atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			piece := make([]byte, 1<<20)
			var out bytes.Buffer
			encoder, _ := flate.NewWriter(nil, flate.BestSpeed)
			for {
				at := next.Add(1<<20) - 1<<20
				if at >= int64(benchBytes()) {
					return
				}
				if _, err := memory.ReadAt(piece, at); err != nil {
					b.Error(err)
				}
				data := piece
				if compress {
					out.Reset()
					encoder.Reset(&out)
					_, _ = encoder.Write(piece)
					_ = encoder.Close()
					data = out.Bytes()
				}
				if _, err := file.WriteAt(data, total.Add(int64(len(data)))-int64(len(data))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	return total.Load()
}

func BenchmarkLoad(b *testing.B) {
	memory := newMemfd(b, benchMemory("mixed"))
	for _, compression := range []Compression{CompressionNone, CompressionZstd} {
		b.Run(string(compression), func(b *testing.B) {
			store, err := CreateStore(b.TempDir() + "/image")
			if err != nil {
				b.Fatal(err)
			}
			writeImage(b, store, memory, WriterOptions{Compression: compression, NoSync: true})
			b.SetBytes(int64(benchBytes()))
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				target := newMemfd(b, nil)
				before := cpuTime(b)
				b.StartTimer()
				img := openImage(b, store)
				if err := img.Load(context.Background(), map[FileID]PageSink{0: SinkTo(target)}, LoadOptions{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				cpu += cpuTime(b) - before
				_ = target.Close()
				b.StartTimer()
			}
			report(b, cpu, 0)
		})
	}
}
