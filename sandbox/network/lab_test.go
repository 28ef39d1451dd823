package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
)

// A lab is a bridge in a namespace of its own, with hosts on it that are
// namespaces too. Everything is gone when its descriptors are closed.
type lab struct {
	t      *testing.T
	bridge string // namespace path
	hosts  int
}

// labHost is one namespace with eth0 on the lab's bridge.
type labHost struct {
	ns string
	// port is the other end of the host's cable, in the bridge's namespace.
	port string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	l := &lab{t: t, bridge: newNamespace(t)}
	l.in(l.bridge, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		// No spanning tree, no multicast snooping: frames pass at once.
		snoop := false
		br.MulticastSnooping = &snoop
		if err := writeSetting("ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
		return errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br))
	})
	return l
}

// newNamespace makes a network namespace that lives as long as the test, and
// returns a path to it.
func newNamespace(t *testing.T) string {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("make network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.f.Fd())
}

func (l *lab) in(ns string, fn func() error) {
	l.t.Helper()
	if err := InNamespace(ns, fn); err != nil {
		l.t.Fatal(err)
	}
}

// host adds a namespace whose eth0 has the addresses. It is not brought up if up
// is false.
func (l *lab) host(mac string, up bool, addrs ...string) *labHost {
	l.t.Helper()
	h := &labHost{ns: newNamespace(l.t), port: fmt.Sprintf("port%d", l.hosts)}
	l.hosts++
	target, err := os.Open(h.ns)
	if err != nil {
		l.t.Fatal(err)
	}
	defer target.Close()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		l.t.Fatal(err)
	}
	l.in(l.bridge, func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: h.port, MTU: 1500}, PeerName: "eth0",
			PeerHardwareAddr: hw, PeerNamespace: netlink.NsFd(int(target.Fd())),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(veth, br), netlink.LinkSetUp(veth))
	})
	l.in(h.ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetUp(lo), netlink.LinkSetMTU(link, 1500)}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			errs = append(errs, netlink.AddrAdd(link, addr))
		}
		if up {
			errs = append(errs, netlink.LinkSetUp(link))
		}
		return errors.Join(errs...)
	})
	return h
}

// node is a running stack on a host.
type node struct {
	stack    *netstack.Stack
	gates    *Gates
	identity *Identity
	takeover *Takeover
	leave    func() // ends it, as the end of its process does
}

// takeOver probes a host and runs a stack on it.
func (l *lab) takeOver(h *labHost) *node {
	l.t.Helper()
	id, err := Probe(h.ns)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.run(h, id, Options{})
}

func (l *lab) run(h *labHost, id *Identity, opts Options) *node {
	l.t.Helper()
	takeover, err := Open(h.ns, id, opts)
	if err != nil {
		l.t.Fatal(err)
	}
	s, err := NewStack(tcpip.NewStdClock(), &testIDs{})
	if err != nil {
		l.t.Fatal(err)
	}
	var fds []int
	for _, f := range takeover.Files {
		fds = append(fds, int(f.Fd()))
	}
	gates, err := Configure(s.Stack, id, fds)
	if err != nil {
		l.t.Fatal(err)
	}
	n := &node{stack: s, gates: gates, identity: id, takeover: takeover}
	n.leave = sync.OnceFunc(func() {
		n.stack.Stack.Destroy()
		takeover.Close()
	})
	l.t.Cleanup(n.leave)
	return n
}

// dial connects from the host's own, real TCP stack.
func (l *lab) dial(h *labHost, addr string) net.Conn {
	l.t.Helper()
	var conn net.Conn
	l.in(h.ns, func() error {
		c, err := dialHere(addr)
		conn = c
		return err
	})
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// dialHere connects on the calling thread; net.Dial would use other threads for
// an address family race, and the wrong namespace with them.
func dialHere(addr string) (net.Conn, error) {
	ap := netip.MustParseAddrPort(addr)
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()})
	if ap.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// Tries of a ping: an answer that must come may take its time, one that must not
// is not waited for as long.
const (
	patient   = 100
	impatient = 4
)

// answers says whether addr answers a ping that the host's own stack sends.
func (l *lab) answers(h *labHost, addr string, tries int) bool {
	l.t.Helper()
	answered := false
	l.in(h.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// Echo request, identifier 0x5b58, sequence 1, with its checksum.
		request := []byte{8, 0, 0x9c, 0xa6, 0x5b, 0x58, 0, 1}
		dst := &unix.SockaddrInet4{Addr: netip.MustParseAddr(addr).As4()}
		for range tries {
			if err := unix.Sendto(fd, request, 0, dst); err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
				return err
			}
			for deadline := time.Now().Add(150 * time.Millisecond); time.Now().Before(deadline); {
				timeout := unix.Timeval{Usec: 50_000}
				if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
					return err
				}
				buf := make([]byte, 128)
				n, _, err := unix.Recvfrom(fd, buf, 0)
				if err == nil && n >= 28 && buf[20] == 0 && buf[24] == 0x5b && buf[25] == 0x58 {
					answered = true
					return nil
				}
			}
		}
		return nil
	})
	return answered
}
