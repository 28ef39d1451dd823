package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// mtuBytes is the MTU of every machine's interface.
const mtuBytes = 1500

const (
	bridgeName    = "br0"
	interfaceName = "eth0"
)

// A Lab is a bridge with machines on it. It is for one goroutine.
type Lab struct {
	Bridge *os.File // the bridge's namespace

	ports      int // of the bridge
	namespaces []*os.File
}

// New makes a bridge without machines. The caller closes the lab.
func New() (*Lab, error) {
	l := &Lab{}
	var err error
	if l.Bridge, err = l.namespace(); err != nil {
		return nil, err
	}
	err = Inside(l.Bridge, func() error {
		snooping := false // or multicast, neighbour discovery included, is held back at first
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}, MulticastSnooping: &snooping}
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0),
			netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
	})
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("make bridge: %w", err)
	}
	return l, nil
}

// Close gives the namespaces up; they end once nobody is inside any more.
func (l *Lab) Close() {
	for _, ns := range l.namespaces {
		ns.Close()
	}
	l.namespaces = nil
}

func (l *Lab) namespace() (*os.File, error) {
	ns, err := NewNamespace()
	if err == nil {
		l.namespaces = append(l.namespaces, ns)
	}
	return ns, err
}

// Machine adds a namespace whose eth0 has an address, with prefix length, on the lab's bridge. A machine that is not up keeps quiet, as the
// target of a migration does whose sandbox still lives elsewhere: see Up. The namespace is the lab's.
func (l *Lab) Machine(mac, address string, up bool) (*os.File, error) {
	ns, err := l.namespace()
	if err != nil {
		return nil, err
	}
	return ns, l.AddLink(ns, interfaceName, mac, address, up)
}

// AddLink gives a machine one more interface on the lab's bridge.
func (l *Lab) AddLink(ns *os.File, name, mac, address string, up bool) error {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	l.ports++
	err = Inside(l.Bridge, func() error {
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: portName(l.ports), MTU: mtuBytes}, PeerName: name,
			PeerHardwareAddr: hardware, PeerNamespace: netlink.NsFd(int(ns.Fd())),
		}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		return errors.Join(PlugIn(port), netlink.LinkSetUp(port))
	})
	if err != nil {
		return fmt.Errorf("plug %s in: %w", address, err)
	}
	err = Inside(ns, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetMTU(link, mtuBytes), netlink.AddrAdd(link, addr)}
		if up {
			errs = append(errs, netlink.LinkSetUp(link))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("set up %s: %w", address, err)
	}
	return nil
}

// portName is the bridge's port of the lab's interface n, from 1.
func portName(n int) string { return fmt.Sprintf("port%d", n) }

// OnPort calls f with the bridge's port of the lab's interface n, from 1, inside of the bridge's namespace.
func (l *Lab) OnPort(n int, f func(netlink.Link) error) error {
	return Inside(l.Bridge, func() error {
		port, err := netlink.LinkByName(portName(n))
		if err != nil {
			return err
		}
		return f(port)
	})
}

// PlugIn makes an interface a port of the bridge. It is called inside of the bridge's namespace.
func PlugIn(port netlink.Link) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	return netlink.LinkSetMaster(port, bridge)
}

// onInterface calls f with the interface of a machine, inside of it.
func onInterface(ns *os.File, f func(netlink.Link) error) error {
	return Inside(ns, func() error {
		link, err := netlink.LinkByName(interfaceName)
		if err != nil {
			return err
		}
		return f(link)
	})
}

// Up brings a machine's interface up.
func Up(ns *os.File) error { return onInterface(ns, netlink.LinkSetUp) }

// Unplug removes a machine's interface, and so the port of the bridge and what the bridge learnt there.
func Unplug(ns *os.File) error { return onInterface(ns, netlink.LinkDel) }

// AddNeighbour makes a machine know another's hardware address for good, so that it never asks for it.
func AddNeighbour(ns *os.File, mac, address string) error {
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	return onInterface(ns, func(link netlink.Link) error {
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(address), HardwareAddr: hardware,
		})
	})
}
