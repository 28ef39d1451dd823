package e2e

import (
	"bytes"
	bytesof "encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// The packets that an observer looks for: guest program emit.py sends them.
const (
	emitMAC, emitAddress         = "02:00:00:00:01:02", "10.9.1.2"
	observerMAC, observerAddress = "02:00:00:00:01:03", "10.9.1.3"
	emitPort                     = 9999
)

// An observer stands outside of all hosts, at the bridge, and sees every packet that a copy of a sandbox sends, and on which host's port it
// comes in. One socket sees all ports, so that it knows the order.
type observer struct {
	t       *testing.T
	socket  int
	hosts   map[int]string // by the index of the bridge's port
	stopped chan struct{}

	mu sync.Mutex
	// spells are what was seen, in order. Guarded by mu, as is everything below.
	spells []spell
	nonce  string            // of the one program that may send
	from   map[uint64]string // which host a number came from last
	both   []uint64          // numbers that came from both
	err    error
}

// A spell is packets that came one after another from the same host.
type spell struct {
	host        string
	first, last uint64 // the number of the first, and the highest
	packets     int
}

// observe watches ports of a lab until the test ends.
func observe(t *testing.T, l *lab, hosts map[int]string) *observer {
	t.Helper()
	o := &observer{t: t, hosts: hosts, stopped: make(chan struct{}), from: make(map[uint64]string)}
	l.must(netlab.Inside(l.Bridge, func() (err error) {
		// All protocols: a bridge's port gives packets to nobody else.
		if o.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(o.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(o.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		)
	}))
	stop := make(chan struct{})
	go func() {
		defer close(o.stopped)
		for {
			select {
			case <-stop:
				return
			default:
				o.receive()
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-o.stopped
		unix.Close(o.socket)
	})
	return o
}

func htons(v uint16) uint16 {
	return bytesof.NativeEndian.Uint16(bytesof.BigEndian.AppendUint16(nil, v))
}

// receive takes one packet, if one comes soon.
func (o *observer) receive() {
	var frame [2048]byte
	n, from, err := unix.Recvfrom(o.socket, frame[:], 0)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.err = fmt.Errorf("observe packets: %w", err)
		return
	}
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok || link.Pkttype == unix.PACKET_OUTGOING || o.hosts[link.Ifindex] == "" {
		return
	}
	nonce, number, ok := emitted(frame[:n])
	if !ok {
		return
	}
	if o.nonce == "" {
		o.nonce = nonce
	}
	if nonce != o.nonce && o.err == nil {
		o.err = fmt.Errorf("program %s sends from %s; it was %s: it was started anew", nonce, o.hosts[link.Ifindex], o.nonce)
	}
	o.note(o.hosts[link.Ifindex], number)
}

// emitted returns what a packet of emit.py says.
func emitted(frame []byte) (nonce string, number uint64, ok bool) {
	const ethernet, ip, udp = 14, 20, 8
	if len(frame) < ethernet+ip+udp || bytesof.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP || frame[ethernet+9] != unix.IPPROTO_UDP ||
		bytesof.BigEndian.Uint16(frame[ethernet+ip+2:]) != emitPort {
		return "", 0, false
	}
	_, err := fmt.Fscan(bytes.NewReader(frame[ethernet+ip+udp:]), &nonce, &number)
	return nonce, number, err == nil
}

// note adds a packet. One that was held at the source's gate and handed over may come late, but none comes twice. The caller holds mu.
func (o *observer) note(host string, number uint64) {
	switch o.from[number] {
	case "":
	case host:
		if o.err == nil {
			o.err = fmt.Errorf("packet %d came from %s twice: something ran twice", number, host)
		}
	default:
		o.both = append(o.both, number)
	}
	o.from[number] = host
	if n := len(o.spells); n == 0 || o.spells[n-1].host != host {
		o.spells = append(o.spells, spell{host: host, first: number, last: number, packets: 1})
		return
	}
	s := &o.spells[len(o.spells)-1]
	s.last = max(s.last, number)
	s.packets++
}

// fromBoth returns the numbers of packets that came from both hosts.
func (o *observer) fromBoth() []uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]uint64(nil), o.both...)
}

// seen returns what was seen so far, and fails if the observer may have missed something or if a host repeated itself.
func (o *observer) seen() []spell {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		o.t.Fatal(o.err)
	}
	// Reading the counters resets them; a loss is fatal at once.
	if counts, err := unix.GetsockoptTpacketStats(o.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || counts.Drops > 0 {
		o.t.Fatalf("the observer missed packets: %+v, %v", counts, err)
	}
	return append([]spell(nil), o.spells...)
}

// order is the hosts from which packets came, in order: "aba" is a, then b, then a again.
func (o *observer) order() string {
	o.t.Helper()
	var order strings.Builder
	for _, s := range o.seen() {
		order.WriteString(s.host)
	}
	return order.String()
}

// packets is how many came from a host so far.
func (o *observer) packets(host string) (n int) {
	o.t.Helper()
	for _, s := range o.seen() {
		if s.host == host {
			n += s.packets
		}
	}
	return n
}

// hears waits until a copy on a host sends.
func (o *observer) hears(t *testing.T, host string) {
	t.Helper()
	const several = 10
	before := o.packets(host)
	eventually(t, "packets come from "+host, func() bool { return o.packets(host) >= before+several })
}

// An emitter is a sandbox that can run on either of two hosts, and sends packets all the time from wherever it does.
type emitter struct {
	*observer
	bundles map[string]guest.Bundle // by host
}

// newEmitter makes the network of one, and an observer.
func newEmitter(t *testing.T, hosts ...string) *emitter {
	t.Helper()
	l := newLab(t)
	ports := make(map[int]string)
	e := &emitter{bundles: make(map[string]guest.Bundle)}
	for i, host := range hosts {
		// Where it is not yet, its interface is down.
		ns := l.machine(emitMAC, emitAddress+"/24", i == 0)
		e.bundles[host] = guest.Bundle{
			Args: guest.Program("emit.py"), Env: []string{fmt.Sprintf("TO=%s:%d", observerAddress, emitPort)},
			Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro")}, Edit: inNamespace(ns),
		}
		ports[l.portIndex(i+1)] = host
	}
	l.machine(observerMAC, observerAddress+"/24", true)
	e.observer = observe(t, l, ports)
	return e
}

// portIndex returns the index of the bridge's port of the lab's machine n, from 1.
func (l *lab) portIndex(n int) (index int) {
	l.t.Helper()
	l.changePort(n, func(port netlink.Link) error {
		index = port.Attrs().Index
		return nil
	})
	return index
}
