package sha256x16

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"testing"
)

// hashers are all ways to hash that this CPU has.
func hashers() map[string]func() *Hasher {
	all := map[string]func() *Hasher{"one by one": func() *Hasher { return newHasher(false) }}
	if fast {
		all["side by side"] = func() *Hasher { return newHasher(true) }
	}
	return all
}

// Streams of all lengths around the boundaries of blocks, written in pieces that are not blocks, end and begin anew while the
// others go on.
func TestDigestsAreThoseOfOneStream(t *testing.T) {
	for name, create := range hashers() {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			h := create()
			var want [Streams]hash.Hash
			for i := range want {
				want[i] = sha256.New()
			}
			lengths := []int{0, 0, 1, 3, 8, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000, 4096, 65536}
			for range 400 {
				var data [Streams][]byte
				for i := range data {
					data[i] = make([]byte, lengths[random.IntN(len(lengths))])
					for k := range data[i] {
						data[i][k] = byte(random.Uint32())
					}
					want[i].Write(data[i])
				}
				h.Write(&data)
				for i := range want {
					if got := h.Sum(i); got != [sha256.Size]byte(want[i].Sum(nil)) {
						t.Fatalf("stream %d has the digest %x, want %x", i, got, want[i].Sum(nil))
					}
				}
				ended := random.IntN(Streams)
				h.Reset(ended)
				want[ended].Reset()
			}
		})
	}
}

// The length in bits does not fit 32 bits from 512 MiB on.
func TestLongStream(t *testing.T) {
	for name, create := range hashers() {
		t.Run(name, func(t *testing.T) {
			h, want := create(), sha256.New()
			piece := make([]byte, 1<<20+7)
			for i := range piece {
				piece[i] = byte(i * 31)
			}
			for range 600 {
				h.Write(&[Streams][]byte{5: piece})
				want.Write(piece)
			}
			if got := h.Sum(5); got != [sha256.Size]byte(want.Sum(nil)) {
				t.Errorf("digest %x, want %x", got, want.Sum(nil))
			}
		})
	}
}

func FuzzWrite(f *testing.F) {
	f.Add([]byte("some bytes for all of them"), uint64(0x0123456789abcdef), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, cuts uint64, times uint8) {
		for name, create := range hashers() {
			h := create()
			var want [Streams]hash.Hash
			for i := range want {
				want[i] = sha256.New()
			}
			for range times % 8 {
				var pieces [Streams][]byte
				for i := range pieces { // four bits say where a stream's piece begins
					pieces[i] = data[int(cuts>>(4*i)&15)*len(data)/16:]
					want[i].Write(pieces[i])
				}
				h.Write(&pieces)
			}
			for i := range want {
				if got := h.Sum(i); got != [sha256.Size]byte(want[i].Sum(nil)) {
					t.Errorf("%s: stream %d has the digest %x, want %x", name, i, got, want[i].Sum(nil))
				}
			}
		}
	})
}

func TestWriteAllocatesNothing(t *testing.T) {
	h := New(Streams)
	var data [Streams][]byte
	for i := range data {
		data[i] = make([]byte, 1000+i)
	}
	if n := testing.AllocsPerRun(10, func() { h.Write(&data) }); n != 0 {
		t.Errorf("a write allocates %v times", n)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, bytes := range []int{4 << 10, 64 << 10, 1 << 20} {
		for name, create := range hashers() {
			b.Run(fmt.Sprintf("%s, %d KiB each", name, bytes>>10), func(b *testing.B) {
				var data [Streams][]byte
				for i := range data {
					data[i] = make([]byte, bytes)
				}
				h := create()
				b.SetBytes(int64(Streams * bytes))
				for b.Loop() {
					h.Write(&data)
				}
			})
		}
	}
}
