package network

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolGetGSO is ETHTOOL_GGSO of linux/ethtool.h.
const ethtoolGetGSO = 0x23

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct {
	command, data uint32
}

// ifreqData is struct ifreq with its pointer member. The padding makes it as
// large as the kernel's union.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data *ethtoolValue
	_    [16]byte
}

// segmentationEnabled says whether the interface accepts packets above its MTU
// and lets the host split them. It must run on a thread in the namespace.
func segmentationEnabled(name string) (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	value := ethtoolValue{command: ethtoolGetGSO}
	request := ifreqData{data: &value}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	switch {
	case errno == 0:
		return value.data != 0, nil
	case errors.Is(errno, unix.EOPNOTSUPP):
		return false, nil
	}
	return false, errno
}
