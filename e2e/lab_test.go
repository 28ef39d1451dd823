package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// A lab is a bridge in a network namespace of its own, with machines on it that are namespaces too. They live as long as the test.
type lab struct {
	t      *testing.T
	bridge *os.File // the bridge's namespace
	links  int      // on the bridge
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, bridge: newNamespace(t)}
	l.in(l.bridge, func() error {
		snooping := false
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snooping}
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0),
			netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
	})
	return l
}

// newNamespace makes a network namespace.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	var ns *os.File
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock
		done <- f()
	}()
	return <-done
}

// inside runs f in a namespace.
func inside(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (l *lab) in(ns *os.File, f func() error) {
	l.t.Helper()
	if err := inside(ns, f); err != nil {
		l.t.Fatal(err)
	}
}

// namespacePath is where other processes find a namespace.
func namespacePath(ns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

// machine adds a namespace whose eth0 has an address on the lab's bridge. A machine that is not up keeps quiet, as the target of a
// migration does whose sandbox still lives elsewhere.
func (l *lab) machine(mac, address string, up bool) *os.File {
	l.t.Helper()
	ns := newNamespace(l.t)
	l.addLink(ns, "eth0", mac, address, up)
	return ns
}

// addLink gives a machine one more interface on the lab's bridge.
func (l *lab) addLink(ns *os.File, name, mac, address string, up bool) {
	l.t.Helper()
	l.links++
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		l.t.Fatal(err)
	}
	l.in(l.bridge, func() error {
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: portName(l.links), MTU: 1500}, PeerName: name,
			PeerHardwareAddr: hardware, PeerNamespace: netlink.NsFd(int(ns.Fd())),
		}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port))
	})
	l.in(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetMTU(link, 1500), netlink.AddrAdd(link, addr)}
		if up {
			errs = append(errs, netlink.LinkSetUp(link))
		}
		return errors.Join(errs...)
	})
}

// addAddress gives a machine one more address.
func (l *lab) addAddress(ns *os.File, address string) {
	l.t.Helper()
	l.in(ns, func() error {
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
	})
}

// portName is the bridge's port of machine n, from 1.
func portName(n int) string { return fmt.Sprintf("port%d", n) }

// cut takes the port of machine n off the bridge, and mend puts it back. Neither end sees more of it than silence.
func (l *lab) cut(n int) { l.changePort(n, netlink.LinkSetNoMaster) }

func (l *lab) mend(n int) {
	l.changePort(n, func(port netlink.Link) error {
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, bridge)
	})
}

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
	l.in(l.bridge, func() error {
		port, err := netlink.LinkByName(portName(n))
		if err != nil {
			return err
		}
		return change(port)
	})
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
	err = inside(ns, func() error {
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
