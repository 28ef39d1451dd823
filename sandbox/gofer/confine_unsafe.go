package gofer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The arguments of capset(2). They are package variables because every thread
// of the process reads them through a raw address, and what is on a Go stack
// may move.
var (
	capsetHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	capsetData   [2]unix.CapUserData
)

// capsetArgs makes keep the effective and permitted set of capset(2)'s
// arguments, and the inheritable set empty, and returns their addresses.
func capsetArgs(keep uint64) (header, data uintptr) {
	for i := range capsetData {
		half := uint32(keep >> (32 * i))
		capsetData[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	return uintptr(unsafe.Pointer(&capsetHeader)), uintptr(unsafe.Pointer(&capsetData))
}
