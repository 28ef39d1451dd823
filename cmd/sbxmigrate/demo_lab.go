package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// The addresses of the demo's network: documentation addresses, in namespaces
// that nothing leads out of.
const (
	demoServerAddress = "192.0.2.1"
	demoClientAddress = "192.0.2.254"
	demoPrefixBits    = 24
	demoPort          = 7000
	demoMAC           = "02:00:c0:00:02:01"
)

// Names of the demo's interfaces.
const (
	demoBridge    = "br0"
	demoInterface = "eth0" // in each host's namespace
)

// demoLab is the network of the demo: the outside is a namespace with a bridge,
// where the client lives; each host is one with a cable to the bridge. They have
// no names on this machine, so that demos never meet, and end with the last
// descriptor on them, however this process ends.
type demoLab struct {
	outside *os.File
	cables  int
}

func newDemoLab() (*demoLab, error) {
	outside, err := newNetworkNamespace()
	if err != nil {
		return nil, err
	}
	lab := &demoLab{outside: outside}
	err = network.InNamespace(namespacePath(outside), func() error {
		noSnooping := false // or multicast, neighbour discovery included, is held back at first
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: demoBridge}, MulticastSnooping: &noSnooping}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return errors.Join(addAddress(bridge, demoClientAddress), netlink.LinkSetUp(bridge))
	})
	if err != nil {
		outside.Close()
		return nil, err
	}
	return lab, nil
}

// addHost makes a namespace with a cable to the bridge. Its interface has the
// address that the sandbox is to have, and is down unless up is set: a prepared
// target must not answer for the sandbox before it is there. The caller closes
// it.
func (l *demoLab) addHost(up bool) (*os.File, error) {
	host, err := newNetworkNamespace()
	if err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(demoMAC)
	if err != nil {
		return nil, err
	}
	l.cables++
	err = network.InNamespace(namespacePath(l.outside), func() error {
		cable := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", l.cables)},
			PeerName:  demoInterface, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(host.Fd())),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("add veth pair: %w", err)
		}
		bridge, err := netlink.LinkByName(demoBridge)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(cable, bridge), netlink.LinkSetUp(cable))
	})
	if err == nil {
		err = network.InNamespace(namespacePath(host), func() error { return configureHost(up) })
	}
	if err != nil {
		host.Close()
		return nil, err
	}
	return host, nil
}

func configureHost(up bool) error {
	link, err := netlink.LinkByName(demoInterface)
	if err != nil {
		return err
	}
	if err := addAddress(link, demoServerAddress); err != nil || !up {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddress(link netlink.Link, ip string) error {
	address := &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(demoPrefixBits, 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: address}); err != nil {
		return fmt.Errorf("add address %v to %s: %w", address, link.Attrs().Name, err)
	}
	return nil
}

// connect opens the client's connection to the server. The caller closes it.
func (l *demoLab) connect() (conn net.Conn, err error) {
	err = network.InNamespace(namespacePath(l.outside), func() error {
		conn, err = connectHere(net.ParseIP(demoServerAddress), demoPort)
		return err
	})
	return conn, err
}

// connectHere connects from the namespace of the calling thread, which net.Dial
// does not promise to do.
func connectHere(ip net.IP, port int) (net.Conn, error) {
	const timeout = 10 * time.Second
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), "client")
	defer socket.Close() // the connection is a copy
	limit := unix.NsecToTimeval(timeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte(ip.To4())}); err != nil {
		return nil, fmt.Errorf("connect to %v port %d: %w", ip, port, err)
	}
	return net.FileConn(socket)
}

// newNetworkNamespace returns a descriptor of a new network namespace. It lives
// as long as somebody holds it.
func newNetworkNamespace() (*os.File, error) {
	type result struct {
		namespace *os.File
		err       error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread is in the namespace and ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{nil, fmt.Errorf("make network namespace: %w", err)}
			return
		}
		// The demo speaks IPv4; where the machine has no IPv6 there is nothing to switch off.
		err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			made <- result{nil, err}
			return
		}
		namespace, err := os.Open("/proc/thread-self/ns/net")
		made <- result{namespace, err}
	}()
	r := <-made
	return r.namespace, r.err
}

// namespacePath is a path to the namespace, for every process on this machine,
// for as long as this one keeps it open.
func namespacePath(namespace *os.File) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace.Fd())
}
