package sha256x16

import "golang.org/x/sys/cpu"

var fast = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

// compress takes in some blocks of each stream in the set streams, a bit for each, with the constants of the rounds. All of data must point to that many
// blocks; what does not belong to a stream of the set changes nothing.
//
//go:noescape
func compress(state *[8][Streams]uint32, data *[Streams]*byte, constants *[64]uint32, blocks int, streams uint16)
