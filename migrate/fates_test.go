package migrate

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

func tcpConnection(local string) network.Connection {
	return network.Connection{Protocol: network.ProtocolTCP, State: "ESTABLISHED", Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort("10.9.0.3:5000")}
}

func TestFatesAreToldWhereSomethingIsLost(t *testing.T) {
	kept := network.Fate{Connection: tcpConnection("10.9.0.2:80"), Kept: true, Reason: "same local address"}
	lost := network.Fate{Connection: tcpConnection("10.9.0.4:80"), Reason: "gone"}
	if got := fatesOf(&checkpoint.Plan{Connections: []network.Fate{kept}}); len(got) != 0 {
		t.Errorf("all is kept: %v", got)
	}
	got := fatesOf(&checkpoint.Plan{Connections: []network.Fate{kept, lost}})
	if len(got) != 2 || !got[0].Kept || got[1].Kept || got[1].Reason != "gone" || got[1].Connection != "tcp 10.9.0.4:80 - 10.9.0.3:5000 ESTABLISHED" {
		t.Errorf("%+v", got)
	}
	many := make([]network.Fate, wire.MaxFates+1)
	for i := range many {
		many[i] = lost
	}
	if got := fatesOf(&checkpoint.Plan{Connections: many}); len(got) != wire.MaxFates {
		t.Errorf("%d fates", len(got))
	}
}

func TestLostConnectionsAreThoseOfTheStop(t *testing.T) {
	s := &source{survey: &inside.Survey{Connections: []network.Connection{tcpConnection("10.9.0.2:80"), tcpConnection("10.9.0.4:80")}}}
	s.report.Connections = []wire.Fate{{Kept: true}, {Kept: false}}
	stopped := &checkpoint.Stopped{Connections: []network.Connection{tcpConnection("10.9.0.2:81"), tcpConnection("10.9.0.4:81")}}
	got, err := s.lostConnections(stopped)
	if err != nil || !strings.Contains(string(got), "10.9.0.4:81") || strings.Contains(string(got), "10.9.0.2") {
		t.Errorf("%s, %v", got, err)
	}
	s.report.Connections = nil
	if got, err := s.lostConnections(stopped); err != nil || string(got) != "null" {
		t.Errorf("nothing is lost: %s, %v", got, err)
	}
}
