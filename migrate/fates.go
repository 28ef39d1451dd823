package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// maxConnections bounds the connections that a plan and a handover name: their messages are bounded.
const maxConnections = wire.MaxFates

// describeConnections returns the sandbox's connections for a plan that may move them to other addresses.
func (s *source) describeConnections() (json.RawMessage, error) {
	list := s.survey.Connections
	if more := len(list) - maxConnections; more > 0 {
		list = list[:maxConnections]
		s.report.Warnings = append(s.report.Warnings, fmt.Sprintf("%d connections are not looked at: a plan has at most %d", more, maxConnections))
	}
	data, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("describe connections: %w", err)
	}
	return data, nil
}

// fatesOf returns what becomes of a plan's connections, if some are not kept.
func fatesOf(plan *checkpoint.Plan) []wire.Fate {
	all, lost := []wire.Fate{}, false
	for _, f := range plan.Connections {
		if len(all) == wire.MaxFates {
			break
		}
		lost = lost || !f.Kept
		all = append(all, wire.Fate{Connection: f.Connection.String(), Kept: f.Kept, Reason: f.Reason})
	}
	if !lost {
		return []wire.Fate{}
	}
	return all
}

// lostConnections returns those of a stopped kernel that the target has no address for, or null.
func (s *source) lostConnections(stopped *checkpoint.Stopped) (json.RawMessage, error) {
	lost := make(map[netip.Addr]bool)
	planned := s.survey.Connections
	for i, f := range s.report.Connections {
		if i < len(planned) && !f.Kept {
			lost[planned[i].Local.Addr()] = true
		}
	}
	var list []network.Connection
	for _, c := range stopped.Connections {
		if lost[c.Local.Addr()] && len(list) < maxConnections {
			list = append(list, c)
		}
	}
	data, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("describe connections: %w", err)
	}
	return data, nil
}

// tellPeers has the loaded sandbox tell the peers of connections that end with the move.
func (a *arrival) tellPeers(ctx context.Context, sb *sandbox.Sandbox, lost json.RawMessage) error {
	if bytes.Equal(lost, []byte("null")) {
		return nil
	}
	list, err := network.ParseConnections(lost)
	if err != nil {
		return err
	}
	return a.plan.TellPeers(ctx, sb, list)
}
