package dirty

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h.
const (
	uffdAPIVersion   = 0xaa
	uffdUserModeOnly = 1

	uffdFeatureMinorShmem               = 1 << 10
	uffdFeatureWPHugetlbfsShmem         = 1 << 12
	uffdFeatureWPUnpopulated            = 1 << 13
	uffdFeatureWPAsync                  = 1 << 15
	uffdFeaturePagefaultFlagWP          = 1 << 0
	uffdRegisterModeWP                  = 1 << 1
	uffdRegisterModeMinor               = 1 << 2
	uffdioAPI                   uintptr = 0xc018aa3f
	uffdioRegister              uintptr = 0xc020aa00
	uffdioUnregister            uintptr = 0x8010aa01
	uffdioContinue              uintptr = 0xc020aa07

	pagemapScanIoctl uintptr = 0xc0606610

	pmScanWPMatching   = 1 << 0
	pmScanCheckWPAsync = 1 << 1

	pageIsWritten = 1 << 1
	pageIsPresent = 1 << 3
)

func ioctl(fd int, request uintptr, arg unsafe.Pointer) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// openUserfaultfd opens a userfaultfd that sees faults of user mode only, which
// needs no privilege.
func openUserfaultfd() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// uffdHandshake asks for the features, and returns those that the kernel has.
func uffdHandshake(fd int, features uint64) (uint64, error) {
	arg := struct{ api, features, ioctls uint64 }{api: uffdAPIVersion, features: features}
	_, err := ioctl(fd, uffdioAPI, unsafe.Pointer(&arg))
	return arg.features, err
}

func uffdRegister(fd int, addr, length uintptr, mode uint64) error {
	arg := struct{ start, length, mode, ioctls uint64 }{uint64(addr), uint64(length), mode, 0}
	_, err := ioctl(fd, uffdioRegister, unsafe.Pointer(&arg))
	return err
}

func uffdUnregister(fd int, addr, length uintptr) error {
	arg := struct{ start, length uint64 }{uint64(addr), uint64(length)}
	_, err := ioctl(fd, uffdioUnregister, unsafe.Pointer(&arg))
	return err
}

// uffdContinue maps the pages of [addr, addr+length) that the file holds, as
// far as there is no hole and no mapped page among them, and returns how many
// bytes that were. It never commits a page. The error is ENOENT or EFAULT for a
// hole and EEXIST for a mapped page, if there is one at addr.
func uffdContinue(fd int, addr, length uintptr) (uintptr, error) {
	arg := struct {
		start, length, mode uint64
		mapped              int64
	}{start: uint64(addr), length: uint64(length)}
	_, err := ioctl(fd, uffdioContinue, unsafe.Pointer(&arg))
	if arg.mapped > 0 {
		return uintptr(arg.mapped), nil
	}
	return 0, err
}

// scanRegion is the kernel's struct page_region: [start, end) are addresses.
type scanRegion struct{ start, end, categories uint64 }

// scanArg is the kernel's struct pm_scan_arg.
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages          uint64
	categoryInverted, categoryMask, categoryAnyofMask, returnedMasks uint64
}

// pagemapScan finds the pages of category in [start, end), fills regions with
// them and returns how many regions it filled, and the address at which it
// ended: less than end if regions was too small.
func pagemapScan(fd int, start, end uintptr, flags, category uint64, regions []scanRegion) (int, uintptr, error) {
	arg := scanArg{
		flags: flags, start: uint64(start), end: uint64(end),
		vec: uint64(uintptr(unsafe.Pointer(&regions[0]))), vecLen: uint64(len(regions)),
		categoryMask: category, returnedMasks: category,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	n, err := ioctl(fd, pagemapScanIoctl, unsafe.Pointer(&arg))
	runtime.KeepAlive(regions)
	return int(n), uintptr(arg.walkEnd), err
}

// mapReadOnly maps length bytes of the file at offset for reading, without
// touching them.
func mapReadOnly(fd int, offset, length uint64) (uintptr, error) {
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, uintptr(length), unix.PROT_READ, unix.MAP_SHARED, uintptr(fd), uintptr(offset))
	if errno != 0 {
		return 0, errno
	}
	return addr, nil
}

func unmap(addr, length uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_MUNMAP, addr, length, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// addressOf returns where b is.
func addressOf(b []byte) uintptr {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}
