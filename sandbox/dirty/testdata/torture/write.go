package main

import (
	"encoding/binary"
	"math/rand/v2"
)

const (
	writtenBytes = 2 * area
	// thinking is how many steps the writer takes before each page, so that it
	// changes memory the slower the less it runs: about 130 MiB/s where it runs
	// all the time.
	thinking = 12000
)

var (
	written = anonymous(writtenBytes)
	seeds   [writtenBytes / page]uint64 // of what each page holds; 0: zeros
	passes  uint64
)

// write changes every page of an area, without a system call.
func write(*rand.Rand) {
	var want [page]byte
	passes++
	for i := range seeds {
		m := written[i*page:][:page]
		grow(want[:], seeds[i])
		expect(m, want[:], "what the writer wrote")
		seeds[i] = think(passes, uint64(i))
		grow(m, seeds[i])
	}
}

// think makes a seed.
func think(pass, page uint64) uint64 {
	x := pass<<32 | page + 1
	for range thinking {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// grow fills a page with what grows from a seed.
func grow(m []byte, seed uint64) {
	for i := 0; i < len(m); i += 8 {
		binary.LittleEndian.PutUint64(m[i:], seed)
		seed = seed * 6364136223846793005 // an odd factor: what is not zero stays that
	}
}
