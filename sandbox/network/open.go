package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// socketBufferBytes is the send and receive buffer of a packet socket. The
// kernel's default of about 200 KiB loses packets at speed.
const socketBufferBytes = 4 << 20

// maxChannels bounds Options.Channels.
const maxChannels = 32

// Options says how a namespace is taken over.
type Options struct {
	// Silent is for the target of a restore or a migration, where the same
	// addresses may still be alive elsewhere: an interface that is down is brought
	// up only when nothing on it can speak any more, and it takes the identity's
	// hardware address. Without it, every interface must be up already.
	Silent bool

	// Channels is how many packet sockets each link gets; zero means one. More
	// than one spreads receiving over as many goroutines.
	Channels int
}

// Takeover is a namespace whose addresses belong to the sandbox now.
type Takeover struct {
	// Files are the packet sockets, Options.Channels of them for each link in the
	// identity's order. The caller closes them, after passing them on.
	Files []*os.File

	// Undo gives the addresses back to the host's stack.
	Undo *Undo
}

// Close closes the sockets that are still here. It does not undo anything.
func (t *Takeover) Close() error {
	var errs []error
	for _, f := range t.Files {
		errs = append(errs, f.Close())
	}
	t.Files = nil
	return errors.Join(errs...)
}

// Open takes the interfaces of id over from the host's stack in the network
// namespace at nsPath and opens packet sockets on them. Interfaces are found by
// name. Afterwards the host's stack has no address there, answers no ARP and
// speaks no IPv6. If it fails, what it changed is changed back.
func Open(nsPath string, id *Identity, opts Options) (*Takeover, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if opts.Channels < 0 || opts.Channels > maxChannels {
		return nil, fmt.Errorf("%d packet sockets a link, at most %d", opts.Channels, maxChannels)
	}
	opts.Channels = max(opts.Channels, 1)
	t := &Takeover{Undo: &Undo{Namespace: nsPath}}
	if len(id.Links) == 0 {
		return t, nil
	}
	err := InNamespace(nsPath, func() error { return t.open(id, opts) })
	if err != nil {
		err = errors.Join(err, t.Close(), t.Undo.Restore())
		return nil, fmt.Errorf("take over network: %w", err)
	}
	return t, nil
}

// open runs on a thread in the namespace.
func (t *Takeover) open(id *Identity, opts Options) error {
	host, err := isHostNamespace()
	if err != nil {
		return err
	}
	if host {
		return ErrHostNamespace
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	for i := range id.Links {
		if err := t.openLink(h, &id.Links[i], opts); err != nil {
			return fmt.Errorf("interface %q: %w", id.Links[i].Name, err)
		}
	}
	return nil
}

func (t *Takeover) openLink(h *netlink.Handle, l *Link, opts Options) error {
	link, err := h.LinkByName(l.hostName())
	if err != nil {
		if _, missing := err.(netlink.LinkNotFoundError); missing {
			return ErrLinkMissing
		}
		return err
	}
	if attrs := link.Attrs(); !opts.Silent && attrs.RawFlags&unix.IFF_UP == 0 {
		return fmt.Errorf("is down: bring it up first (ip link set %s up)", l.hostName())
	}
	taken, err := isTaken(link)
	if err != nil {
		return err
	}
	if taken {
		return ErrLinkTaken
	}
	// The record is complete before the first change.
	undo, err := recordLink(h, link)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	t.Undo.Links = append(t.Undo.Links, undo)
	if err := silence(h, link); err != nil {
		return err
	}
	if err := adoptHardware(h, link, l, opts); err != nil {
		return err
	}
	for range opts.Channels {
		f, err := openPacketSocket(link, l.GSOMaxSizeBytes > 0)
		if err != nil {
			return err
		}
		t.Files = append(t.Files, f)
	}
	return nil
}

// adoptHardware gives the interface the identity's hardware address and MTU and
// brings it up. The silenced host stack has nothing left to say when it comes up.
func adoptHardware(h *netlink.Handle, link netlink.Link, l *Link, opts Options) error {
	attrs := link.Attrs()
	if attrs.MTU < l.MTUBytes {
		return fmt.Errorf("mtu is %d, the sandbox sends %d", attrs.MTU, l.MTUBytes)
	}
	mac, err := l.linkAddress()
	if err != nil {
		return err
	}
	if (mac == "") != (len(attrs.HardwareAddr) == 0) {
		return errors.New("is another kind of device than the sandbox had")
	}
	if string(mac) != string(attrs.HardwareAddr) {
		if !opts.Silent {
			return fmt.Errorf("hardware address is %v, the identity has %s", attrs.HardwareAddr, l.MAC)
		}
		if err := h.LinkSetHardwareAddr(link, []byte(mac)); err != nil {
			return fmt.Errorf("set hardware address %s: %w", l.MAC, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// openPacketSocket opens a raw packet socket that is bound to the interface.
// With virtioHeader, frames carry the header that lets the host segment them.
func openPacketSocket(link netlink.Link, virtioHeader bool) (*os.File, error) {
	// Protocol zero receives nothing until bind, so no foreign frame slips in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet:"+link.Attrs().Name)
	if virtioHeader {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			f.Close()
			return nil, fmt.Errorf("enable segmentation by the host: %w", err)
		}
	}
	for _, option := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBufferBytes); err != nil {
			f.Close()
			return nil, fmt.Errorf("set packet socket buffer: %w", err)
		}
	}
	address := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Attrs().Index}
	if err := unix.Bind(fd, address); err != nil {
		f.Close()
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return f, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
