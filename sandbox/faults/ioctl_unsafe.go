package faults

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/userfaultfd.h.
const (
	apiVersion          = 0xaa
	featureMissingShmem = 1 << 5
	modeMissing         = 1 << 0

	ioctlNew        uintptr = 0xaa00
	ioctlAPI        uintptr = 0xc018aa3f
	ioctlRegister   uintptr = 0xc020aa00
	ioctlUnregister uintptr = 0x8010aa01
	ioctlWake       uintptr = 0x8010aa02
	ioctlCopy       uintptr = 0xc028aa03
	ioctlZero       uintptr = 0xc020aa04
)

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}

// newUserfaultfd makes a userfaultfd that sees the faults of the host's kernel too.
func newUserfaultfd(device int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), ioctlNew, unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func handshake(fd int, features uint64) error {
	arg := struct{ api, features, ioctls uint64 }{api: apiVersion, features: features}
	return ioctl(fd, ioctlAPI, unsafe.Pointer(&arg))
}

func register(fd int, addr, length uintptr) error {
	arg := struct{ start, length, mode, ioctls uint64 }{uint64(addr), uint64(length), modeMissing, 0}
	return ioctl(fd, ioctlRegister, unsafe.Pointer(&arg))
}

func unregister(fd int, addr, length uintptr) error {
	arg := struct{ start, length uint64 }{uint64(addr), uint64(length)}
	return ioctl(fd, ioctlUnregister, unsafe.Pointer(&arg))
}

func wake(fd int, addr, length uint64) error {
	arg := struct{ start, length uint64 }{addr, length}
	return ioctl(fd, ioctlWake, unsafe.Pointer(&arg))
}

// copyTo puts pages into holes, as far as there is no page, and returns how many
// bytes that were. With bytes there may be an error all the same, EAGAIN.
func copyTo(fd int, addr uint64, data []byte) (int, error) {
	arg := struct {
		dst, src, length, mode uint64
		copied                 int64
	}{dst: addr, src: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))), length: uint64(len(data))}
	err := ioctl(fd, ioctlCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(data)
	return int(max(arg.copied, 0)), err
}

// zero is copyTo of zeros.
func zero(fd int, addr, length uint64) (int, error) {
	arg := struct {
		start, length, mode uint64
		zeroed              int64
	}{start: addr, length: length}
	err := ioctl(fd, ioctlZero, unsafe.Pointer(&arg))
	return int(max(arg.zeroed, 0)), err
}
