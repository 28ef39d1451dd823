package e2e

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// A lab is a bridge in a network namespace of its own, with machines on it that are namespaces too. They live as long as the test.
type lab struct {
	*netlab.Lab
	t *testing.T
}

func newLab(t *testing.T) *lab {
	t.Helper()
	inner, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inner.Close)
	return &lab{inner, t}
}

// must fails the test for an error.
func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// machine adds a namespace whose eth0 has an address on the lab's bridge. A machine that is not up keeps quiet, as the target of a
// migration does whose sandbox still lives elsewhere.
func (l *lab) machine(mac, address string, up bool) *os.File {
	l.t.Helper()
	ns, err := l.Machine(mac, address, up)
	l.must(err)
	return ns
}

// addLink gives a machine one more interface on the lab's bridge.
func (l *lab) addLink(ns *os.File, name, mac, address string, up bool) {
	l.t.Helper()
	l.must(l.AddLink(ns, name, mac, address, up))
}

// addAddress gives a machine one more address.
func (l *lab) addAddress(ns *os.File, address string) {
	l.t.Helper()
	l.must(netlab.Inside(ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD // it is used at once
		}
		return netlink.AddrAdd(link, addr)
	}))
}

// cut takes the port of machine n off the bridge, and mend puts it back. Neither end sees more of it than silence.
func (l *lab) cut(n int) { l.changePort(n, netlink.LinkSetNoMaster) }

func (l *lab) mend(n int) { l.changePort(n, netlab.PlugIn) }

// slow shapes what reaches machine n to so many bytes a second, until quicken.
func (l *lab) slow(n int, bytesPerSecond uint64) {
	l.changePort(n, func(port netlink.Link) error {
		burst := max(32<<10, uint32(bytesPerSecond/500)) // 2 ms of it: a fast link must not wait for the clock
		return netlink.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       bytesPerSecond, Limit: 8 * burst, Buffer: netlink.Xmittime(bytesPerSecond, burst),
		})
	})
}

func (l *lab) quicken(n int) {
	l.changePort(n, func(port netlink.Link) error {
		return netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
		}})
	})
}

func (l *lab) changePort(n int, change func(netlink.Link) error) {
	l.t.Helper()
	l.must(l.OnPort(n, change))
}

// dialFrom opens a TCP connection from a namespace.
func dialFrom(ns *os.File, address string) (net.Conn, error) {
	return connectFrom(ns, unix.SOCK_STREAM, address)
}

// connectFrom connects a socket from a namespace.
func connectFrom(ns *os.File, kind int, address string) (conn net.Conn, err error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	var sockaddr syscall.Sockaddr = &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	family := syscall.AF_INET6
	if to.Addr().Is4() {
		sockaddr, family = &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, syscall.AF_INET
	}
	err = netlab.Inside(ns, func() error {
		// No goroutine of a dialler's own: it would be in another namespace.
		fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), address)
		defer file.Close()
		if err := netlab.Connect(fd, sockaddr); err != nil {
			return err
		}
		conn, err = net.FileConn(file)
		return err
	})
	return conn, err
}
