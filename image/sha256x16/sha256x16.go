// Package sha256x16 computes SHA-256 digests of up to sixteen streams side by side, on one core.
//
// The instructions that CPUs have for SHA-256 wait for each other within a stream: a core that hashes one stream is mostly idle. AVX-512 works on
// one word of each of sixteen streams at a time, and none of them waits for another; it takes a third of the time for the same bytes (BenchmarkWrite). Where the CPU
// has no AVX-512, streams are hashed one after the other by crypto/sha256, with the same results.
//
// Data in: the next bytes of some or all streams. Data out: the digest of a stream, at any time. Streams may differ in length; it is
// faster the less they do.
//
// The algorithm is FIPS 180-4, section 6.2. That a stream has one element of each vector is the arrangement of Gopal et al., "Processing Multiple
// Buffers in Parallel to Increase Performance on Intel Architecture Processors" (Intel, 2010).
package sha256x16

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Streams is how many streams a Hasher has.
const Streams = 16

// Worthwhile is how many streams are hashed side by side in the time that they take one after the other, on a CPU that can.
const Worthwhile = 6

// Fast says whether this CPU can hash streams side by side.
func Fast() bool { return fast }

// A Hasher has the state of Streams streams. It is for one goroutine at a time.
type Hasher struct {
	state   [8][Streams]uint32              // word i of each stream's state
	partial [Streams][sha256.BlockSize]byte // what follows the last whole block of each
	length  [Streams]uint64                 // bytes of each so far

	single *[Streams]hash.Hash // does it all instead, where the CPU is not fast
}

// New returns a hasher of empty streams, of which as many as that will be written to.
func New(streams int) *Hasher { return newHasher(fast && streams >= Worthwhile) }

func newHasher(fast bool) *Hasher {
	h := &Hasher{}
	if !fast {
		h.single = new([Streams]hash.Hash)
		for i := range h.single {
			h.single[i] = sha256.New()
		}
		return h
	}
	for i := range Streams {
		h.Reset(i)
	}
	return h
}

// initial is the state of an empty stream.
var initial = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}

// constants are those of the rounds.
var constants = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

// Reset makes a stream empty.
func (h *Hasher) Reset(stream int) {
	if h.single != nil {
		h.single[stream].Reset()
		return
	}
	for i, word := range initial {
		h.state[i][stream] = word
	}
	h.length[stream] = 0
}

// Write appends to each stream what data has for it, which may be nothing. data is only read.
func (h *Hasher) Write(data *[Streams][]byte) {
	if h.single != nil {
		for i, more := range data {
			h.single[i].Write(more)
		}
		return
	}
	rest := *data
	h.fill(&rest)
	h.blocks(&rest)
	for i, tail := range rest {
		h.length[i] += uint64(len(data[i]) - len(tail))
		copy(h.partial[i][h.length[i]%sha256.BlockSize:], tail)
		h.length[i] += uint64(len(tail))
	}
}

// fill completes the blocks that have been begun, as far as data goes, and takes from data what that takes.
func (h *Hasher) fill(data *[Streams][]byte) {
	var complete [Streams][]byte
	for i := range data {
		begun := int(h.length[i] % sha256.BlockSize)
		if begun == 0 || len(data[i]) < sha256.BlockSize-begun {
			continue
		}
		n := copy(h.partial[i][begun:], data[i])
		data[i] = data[i][n:]
		complete[i] = h.partial[i][:]
	}
	h.blocks(&complete)
}

// blocks compresses the whole blocks of data, and takes them from it.
func (h *Hasher) blocks(data *[Streams][]byte) {
	for {
		var streams uint16
		var some *byte
		least := 0
		for i := range data {
			n := len(data[i]) / sha256.BlockSize
			if n == 0 {
				continue
			}
			streams |= 1 << i
			if least == 0 || n < least {
				least = n
			}
			some = &data[i][0]
		}
		if streams == 0 {
			return
		}
		var from [Streams]*byte
		for i := range data {
			from[i] = some // memory that may be read, in place of a stream that has no block
			if streams&(1<<i) != 0 {
				from[i] = &data[i][0]
				data[i] = data[i][least*sha256.BlockSize:]
			}
		}
		compress(&h.state, &from, &constants, least, streams)
	}
}

// Sum returns the digest of a stream, which may go on.
func (h *Hasher) Sum(stream int) (digest [sha256.Size]byte) {
	if h.single != nil {
		h.single[stream].Sum(digest[:0])
		return digest
	}
	// The end is a bit that is one, bits that are zero, and the length in bits in the last eight bytes of a block.
	var end [2 * sha256.BlockSize]byte
	n := copy(end[:], h.partial[stream][:h.length[stream]%sha256.BlockSize])
	end[n] = 0x80
	blocks := 1
	if n+1+8 > sha256.BlockSize {
		blocks = 2
	}
	binary.BigEndian.PutUint64(end[blocks*sha256.BlockSize-8:], 8*h.length[stream])
	state := h.state
	var from [Streams]*byte
	for i := range from {
		from[i] = &end[0]
	}
	compress(&state, &from, &constants, blocks, 1<<stream)
	for i := range state {
		binary.BigEndian.PutUint32(digest[4*i:], state[i][stream])
	}
	return digest
}
