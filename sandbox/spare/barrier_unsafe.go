package spare

import (
	"runtime"
	"syscall"
	"unsafe"
)

// What <linux/prctl.h>, <linux/seccomp.h> and <linux/membarrier.h> call them, and syscall does not.
const (
	prSetSeccomp         = 22
	seccompModeFilter    = 2          // of prctl(2)
	seccompSetModeFilter = 1          // of seccomp(2)
	seccompSpecAllow     = 1 << 2     // Linux 4.17
	seccompRetErrno      = 0x00050000 // the error number is in its lower half; 0 is success
	seccompRetAllow      = 0x7fff0000

	membarrierRegisterPrivateExpedited = 1 << 4
)

// Where struct seccomp_data has the number of a system call, what calling convention it belongs to, and the lower half of its first argument
// (little endian).
const (
	dataNumber       = 0
	dataArchitecture = 4
	dataArgument     = 16
)

// calls says how the architecture calls membarrier(2) and seccomp(2), 0 where nobody has looked that up.
func calls() (architecture, membarrier, seccomp uint32) {
	switch runtime.GOARCH {
	case "amd64":
		return 0xc000003e, 324, 317
	case "arm64":
		return 0xc00000b7, 283, 277
	}
	return 0, 0, 0
}

// SkipBarrierRegistration makes the calling thread, and what it starts, believe that it has registered for private expedited memory barriers.
// gVisor registers in a package initialiser, when the process has several threads: it then waits for a grace period of the host's kernel, 5–10 ms
// in which nothing else is initialised. Who relies on the registration later gets an error; a systrap sandbox and a gofer do not, nor does a command. A
// process that runs programs of others must not call it, since those may.
//
// It is best effort: where the kernel refuses, a process starts more slowly.
func SkipBarrierRegistration() {
	architecture, membarrier, seccomp := calls()
	if membarrier == 0 {
		return
	}
	load := func(offset uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, K: offset}
	}
	// unless jumps over so many instructions unless the value is k.
	unless := func(k uint32, over uint8) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, Jf: over, K: k}
	}
	answer := func(k uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: k}
	}
	filter := []syscall.SockFilter{
		load(dataArchitecture), unless(architecture, 5),
		load(dataNumber), unless(membarrier, 3),
		load(dataArgument), unless(membarrierRegisterPrivateExpedited, 1),
		answer(seccompRetErrno),
		answer(seccompRetAllow),
	}
	program := syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Before Linux 5.16 a thread with a filter also lost some of its CPU's speculation by that, and its speed.
	_, _, errno := syscall.RawSyscall(uintptr(seccomp), seccompSetModeFilter, seccompSpecAllow, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		syscall.RawSyscall(syscall.SYS_PRCTL, prSetSeccomp, seccompModeFilter, uintptr(unsafe.Pointer(&program)))
	}
	runtime.KeepAlive(filter)
}
