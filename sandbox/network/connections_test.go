package network

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConnections(t *testing.T) {
	list := []Connection{
		{Protocol: ProtocolTCP, State: "ESTABLISHED", Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("192.0.2.3:4000"), SendNext: 7},
		{Protocol: ProtocolUDP, State: "BOUND", Local: netip.MustParseAddrPort("[::]:53")},
	}
	data, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConnections(data)
	if d := cmp.Diff(list, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || d != "" {
		t.Errorf("%v, -want +got:\n%s", err, d)
	}
	if got, err := ParseConnections(nil); err != nil || got != nil {
		t.Errorf("an image without the list: %v, %v", got, err)
	}
	const bound = `{"protocol":"udp","state":"BOUND","local":"192.0.2.1:80"}`
	for _, bad := range []string{
		"{}", `[{"protocol":"sctp","state":"BOUND","local":"192.0.2.1:80"}]`, `[{"protocol":"tcp","state":"BOUND"}]`,
		`[{"protocol":"tcp","local":"192.0.2.1:80"}]`,
		`[{"protocol":"tcp","state":"BOUND\n","local":"192.0.2.1:80"}]`,
		`[{"protocol":"tcp","state":"\u001b[2J","local":"192.0.2.1:80"}]`,
		`[{"protocol":"tcp","state":"` + strings.Repeat("X", 21) + `","local":"192.0.2.1:80"}]`,
		`[{"protocol":"tcp","state":"BOUND","local":"[fe80::1%\u001b[2J]:80"}]`,
		`[{"protocol":"tcp","state":"BOUND","local":"[::]:80","remote":"[fe80::1%eth0]:80"}]`,
		`[{"protocol":"tcp","state":"BOUND","local":"192.0.2.1:80","remote":"[::1]:80"}]`,
		"[" + strings.Repeat(bound+",", maxConnections) + bound + "]",
	} {
		if _, err := ParseConnections([]byte(bad)); err == nil {
			t.Errorf("accepted: %.100s", bad)
		}
	}
}

func FuzzParseConnections(f *testing.F) {
	f.Add([]byte(`[{"protocol":"tcp","state":"LISTEN","local":"[::]:80"}]`))
	f.Add([]byte(`[{"protocol":"tcp","state":"FIN-WAIT1","local":"192.0.2.1:80","remote":"192.0.2.3:1","sendNext":1,"receiveNext":2}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseConnections(data)
		if err != nil {
			return
		}
		for _, fate := range Survival(list, &Identity{}) {
			if fate.Reset && len(resetSegment(fate.Connection, 1)) == 0 {
				t.Error("no reset")
			}
		}
	})
}
