package checkpoint

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What <linux/io_uring.h> calls them.
const (
	ringParamsBytes   = 120 // of struct io_uring_params, which may all be zero
	ringRegisterFiles = 2
)

// letGo closes the memory file of a sandbox. If that has ended, it does not wait until the kernel has freed what is in it: whoever closes the last
// descriptor of a file does, which takes 150 ms for each GiB.
//
// An io_uring keeps the file open beyond that, and a worker of the kernel, not who closes the ring, lets go of what a ring keeps. Where rings are not to be had
// or work in another way, this takes as long as any Close.
func letGo(memory *os.File) error {
	var params [ringParamsBytes]byte
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return memory.Close()
	}
	defer unix.Close(int(ring)) // after memory
	files := [1]int32{int32(memory.Fd())}
	unix.Syscall6(unix.SYS_IO_URING_REGISTER, ring, ringRegisterFiles, uintptr(unsafe.Pointer(&files)), uintptr(len(files)), 0, 0)
	return memory.Close()
}
