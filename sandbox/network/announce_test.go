package network

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The frames are written out by hand from RFC 5227, RFC 4861 and RFC 2464.
func TestAnnouncementBytes(t *testing.T) {
	got := announcements(testMAC, prefixes("192.0.2.1/24", "2001:db8::1/64"))
	want := []string{
		"ffffffffffff" + "020000000001" + "0806" + "0001" + "0800" + "06" + "04" + "0001" +
			"020000000001" + "c0000201" + "000000000000" + "c0000201",
		"ffffffffffff" + "020000000001" + "0806" + "0001" + "0800" + "06" + "04" + "0002" +
			"020000000001" + "c0000201" + "ffffffffffff" + "c0000201",
		"333300000001" + "020000000001" + "86dd" + "60000000" + "0020" + "3a" + "ff" +
			"20010db8000000000000000000000001" + "ff020000000000000000000000000001" +
			"88" + "00" + "f92a" + "20000000" + "20010db8000000000000000000000001" + "0201" + "020000000001",
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range want {
		if h := hex.EncodeToString(got[i]); h != want[i] {
			t.Errorf("frame %d:\n got %s\nwant %s", i, h, want[i])
		}
	}
}

func TestAnnounceGoesPastAShutGate(t *testing.T) {
	g, lower, _ := newTestGate(t, 8)
	if err := g.Shut(ModeDrop); err != nil {
		t.Fatal(err)
	}
	if err := g.Announce(); err != nil {
		t.Fatal(err)
	}
	if n := lower.NumQueued(); n != 2 {
		t.Errorf("%d frames on the wire, want 2", n)
	}
	if s := g.Stats(); s != (Stats{}) {
		t.Errorf("announcements are counted: %+v", s)
	}
}

func TestAnnounceWithoutAddressNamesTheHardware(t *testing.T) {
	frames := announcements(testMAC, nil)
	if len(frames) != 1 || header.ARP(frames[0][header.EthernetMinimumSize:]).HardwareAddressSender()[5] != 1 {
		t.Errorf("frames: %x", frames)
	}
}

func TestResetSegment(t *testing.T) {
	for _, c := range []Connection{
		{Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("192.0.2.2:4000"), SendNext: 7, ReceiveNext: 9},
		{Local: netip.MustParseAddrPort("[2001:db8::1]:80"), Remote: netip.MustParseAddrPort("[2001:db8::2]:4000"), SendNext: 7, ReceiveNext: 9},
	} {
		b := resetSegment(c, c.SendNext)
		n := header.IPv4MinimumSize
		if c.Local.Addr().Is6() {
			n = header.IPv6MinimumSize
			if !header.IPv6(b).IsValid(len(b)) {
				t.Errorf("%v: invalid IPv6 header", c)
			}
		} else if h := header.IPv4(b); !h.IsValid(len(b)) || !h.IsChecksumValid() {
			t.Errorf("%v: invalid IPv4 header", c)
		}
		seg := header.TCP(b[n:])
		if seg.Flags() != header.TCPFlagRst|header.TCPFlagAck || seg.SequenceNumber() != 7 || seg.AckNumber() != 9 ||
			seg.SourcePort() != 80 || seg.DestinationPort() != 4000 {
			t.Errorf("%v: segment %x", c, seg)
		}
		if !seg.IsChecksumValid(tcpipAddr(c.Local.Addr()), tcpipAddr(c.Remote.Addr()), 0, 0) {
			t.Errorf("%v: checksum", c)
		}
	}
}

func TestSurvival(t *testing.T) {
	id := exampleIdentity()
	id.Routes = id.Routes[:1] // no default route
	ap := netip.MustParseAddrPort
	for _, c := range []struct {
		conn        Connection
		kept, reset bool
	}{
		{Connection{Protocol: ProtocolTCP, State: "LISTEN", Local: ap("[::]:80")}, true, false},
		{Connection{Protocol: ProtocolTCP, State: "LISTEN", Local: ap("192.0.2.1:80")}, true, false},
		{Connection{Protocol: ProtocolTCP, State: "LISTEN", Local: ap("192.0.2.77:80")}, false, false},
		{Connection{Protocol: ProtocolTCP, State: "ESTABLISHED", Local: ap("192.0.2.1:80"), Remote: ap("192.0.2.5:9"), SendNext: 1}, true, false},
		{Connection{Protocol: ProtocolTCP, State: "ESTABLISHED", Local: ap("192.0.2.1:80"), Remote: ap("203.0.113.5:9"), SendNext: 1}, false, false},
		{Connection{Protocol: ProtocolTCP, State: "ESTABLISHED", Local: ap("192.0.2.77:80"), Remote: ap("192.0.2.5:9"), SendNext: 1}, false, true},
		{Connection{Protocol: ProtocolTCP, State: "TIME-WAIT", Local: ap("192.0.2.77:80"), Remote: ap("192.0.2.5:9"), SendNext: 1}, false, false},
		{Connection{Protocol: ProtocolTCP, State: "ESTABLISHED", Local: ap("127.0.0.1:80"), Remote: ap("127.0.0.1:9"), SendNext: 1}, true, false},
		{Connection{Protocol: ProtocolUDP, State: "CONNECTED", Local: ap("192.0.2.77:53"), Remote: ap("192.0.2.5:9")}, false, false},
		{Connection{Protocol: ProtocolUDP, State: "BOUND", Local: ap("[::]:53")}, true, false},
	} {
		got := Survival([]Connection{c.conn}, id)[0]
		if got.Kept != c.kept || got.Reset != c.reset || got.Reason == "" {
			t.Errorf("%v: got %+v", c.conn, got)
		}
	}
}
