package main

import (
	"syscall"
	"unsafe"
)

func address(b []byte) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// forkAndScribble forks. The child has one thread and no runtime, so it only
// compares the memory with what is wanted, writes to it and exits.
//
//go:norace
//go:nosplit
func forkAndScribble(memory, want *byte, stride int) int {
	pid, _, errno := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
	if errno != 0 {
		return -int(errno)
	}
	if pid != 0 {
		return int(pid)
	}
	for i := 0; i < area; i += 8 {
		if *(*uint64)(unsafe.Add(unsafe.Pointer(memory), i)) != *(*uint64)(unsafe.Add(unsafe.Pointer(want), i)) {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	for i := 0; i < area; i += page * stride {
		*(*byte)(unsafe.Add(unsafe.Pointer(memory), i)) += 1
	}
	syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}
