package network

import (
	"fmt"
	"slices"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Direction says which way a frame was going.
type Direction uint8

const (
	// Inbound frames go from the wire to the stack.
	Inbound Direction = iota

	// Outbound frames go from the stack to the wire.
	Outbound
)

// maxFrameBytes is a full host-segmented packet with its link header.
const maxFrameBytes = maxGSOBytes + header.EthernetMinimumSize

// Frame is a held frame on its way to the gate of another sandbox process.
type Frame struct {
	NIC       int32
	Direction Direction

	// ChecksumValid says of an inbound frame that its transport checksum need not
	// be right: on a veth pair the host does not fill it in.
	ChecksumValid bool

	// Segmentation of an outbound frame; the zero value means none.
	Segmentation Segmentation

	// Data is the frame with its link header.
	Data []byte
}

// Segmentation tells the host how to split an outbound frame and where to put
// the checksum.
type Segmentation struct {
	Type           uint8 // as stack.GSOType
	NeedsChecksum  bool
	ChecksumOffset uint16
	HeaderBytes    uint16 // link, network and transport header together
	NetworkBytes   uint16 // network header
	MSSBytes       uint16
	MaxBytes       uint32
}

// Frames returns copies of the frames of one direction that the gate itself has
// held since the last call, oldest first. The gate keeps its own, so that Open
// can still pass them on a rollback; frames that came by Inject are not returned.
func (g *Gate) Frames(d Direction) []Frame {
	g.queueMu.Lock()
	q := &g.in
	if d == Outbound {
		q = &g.out
	}
	fresh := slices.Clone(q.packets[q.copied:])
	for _, p := range fresh {
		p.pkt.IncRef() // Open may release the queue's reference meanwhile
	}
	q.copied = len(q.packets)
	g.queueMu.Unlock()
	frames := make([]Frame, 0, len(fresh))
	for _, p := range fresh {
		frames = append(frames, g.frame(d, p.pkt))
	}
	releaseAll(fresh)
	return frames
}

func (g *Gate) frame(d Direction, pkt *stack.PacketBuffer) Frame {
	f := Frame{
		NIC:           int32(g.nic),
		Direction:     d,
		ChecksumValid: d == Inbound && pkt.RXChecksumValidated,
		Data:          make([]byte, 0, pkt.Size()),
	}
	for _, s := range pkt.AsSlices() {
		f.Data = append(f.Data, s...)
	}
	if o := pkt.GSOOptions; d == Outbound && o.Type != stack.GSONone {
		f.Segmentation = Segmentation{
			Type:           uint8(o.Type),
			NeedsChecksum:  o.NeedsCsum,
			ChecksumOffset: o.CsumOffset,
			HeaderBytes:    uint16(pkt.HeaderSize()),
			NetworkBytes:   o.L3HdrLen,
			MSSBytes:       o.MSS,
			MaxBytes:       o.MaxSize,
		}
	}
	return f
}

// Inject gives the gate frames that another gate held. A gate that holds queues
// them ahead of its own; an open gate passes them at once; a gate in ModeDrop
// discards them. The frames' data is copied.
func (g *Gate) Inject(frames []Frame) error {
	packets := make([]heldPacket, 0, len(frames))
	defer func() { releaseAll(packets) }()
	for i := range frames {
		p, err := g.packet(&frames[i])
		if err != nil {
			return fmt.Errorf("inject frame %d on %q: %w", i, g.name, err)
		}
		packets = append(packets, p)
	}
	// An injected frame must not overtake what Open is passing right now.
	g.controlMu.Lock()
	defer g.controlMu.Unlock()
	for i, p := range packets {
		if frames[i].Direction == Outbound {
			var one stack.PacketBufferList
			one.PushBack(p.pkt)
			_, _ = g.WritePackets(one)
			continue
		}
		g.injectIn(p)
	}
	return nil
}

func (g *Gate) injectIn(p heldPacket) {
	g.inMu.RLock()
	defer g.inMu.RUnlock()
	switch g.mode {
	case ModeOpen:
		g.Endpoint.DeliverNetworkPacket(p.proto, p.pkt)
	case ModeHold:
		g.hold(&g.forwarded, p.proto, p.pkt)
	default:
		g.discardIn()
	}
}

// packet rebuilds the packet of a frame; the caller owns it.
func (g *Gate) packet(f *Frame) (heldPacket, error) {
	linkBytes := 0
	if g.mac != "" {
		linkBytes = header.EthernetMinimumSize
	}
	if len(f.Data) <= linkBytes || len(f.Data) > maxFrameBytes || tcpip.NICID(f.NIC) != g.nic {
		return heldPacket{}, fmt.Errorf("%w: %d bytes for interface %d", ErrInvalidFrame, len(f.Data), f.NIC)
	}
	proto := networkProtocol(f.Data, linkBytes)
	if f.Direction == Outbound {
		return outboundPacket(f, proto)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f.Data)})
	pkt.LinkHeader().Consume(linkBytes)
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = f.ChecksumValid
	return heldPacket{proto, pkt}, nil
}

func outboundPacket(f *Frame, proto tcpip.NetworkProtocolNumber) (heldPacket, error) {
	s := f.Segmentation
	headerBytes := int(s.HeaderBytes)
	if headerBytes > len(f.Data) || stack.GSOType(s.Type) > stack.GSOGvisor ||
		(stack.GSOType(s.Type) != stack.GSONone && (headerBytes == 0 || s.MSSBytes == 0)) {
		return heldPacket{}, fmt.Errorf("%w: segmentation %+v", ErrInvalidFrame, s)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: headerBytes,
		Payload:            buffer.MakeWithData(f.Data[headerBytes:]),
	})
	if headerBytes > 0 {
		copy(pkt.LinkHeader().Push(headerBytes), f.Data)
	}
	pkt.NetworkProtocolNumber = proto
	pkt.GSOOptions = stack.GSO{
		Type:       stack.GSOType(s.Type),
		NeedsCsum:  s.NeedsChecksum,
		CsumOffset: s.ChecksumOffset,
		MSS:        s.MSSBytes,
		L3HdrLen:   s.NetworkBytes,
		MaxSize:    s.MaxBytes,
	}
	return heldPacket{proto, pkt}, nil
}

// networkProtocol reads the protocol from the link header, or from the version
// of a bare IP packet. The caller made sure that there is a byte after linkBytes.
func networkProtocol(data []byte, linkBytes int) tcpip.NetworkProtocolNumber {
	if linkBytes > 0 {
		return header.Ethernet(data).Type()
	}
	if header.IPVersion(data) == header.IPv6Version {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}
