package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The arguments of capset(2) for the empty sets. They are package variables
// because every thread of the process reads them through a raw address, and
// what is on a Go stack may move.
var (
	noCapsHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	noCapsData   [2]unix.CapUserData
)

// noCapsArgs returns the addresses of the arguments above.
func noCapsArgs() (header, data uintptr) {
	return uintptr(unsafe.Pointer(&noCapsHeader)), uintptr(unsafe.Pointer(&noCapsData))
}
