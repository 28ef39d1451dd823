//go:build !amd64

package sha256x16

const fast = false

func compress(*[8][Streams]uint32, *[Streams]*byte, *[64]uint32, int, uint16) {
	panic("sha256x16: called on a CPU that has no code for it")
}
