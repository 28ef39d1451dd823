package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/convergence"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// demoAgentGrace is how long sessions may go on once the demo is over. Their
// source is this process, and has let go of them.
const demoAgentGrace = time.Second

// Names under which the demo's hosts know each other.
const (
	demoSourceName = "A"
	demoTargetName = "B"
)

// demoLiveMove is the report of a migration.
type demoLiveMove struct{ migrate.Report }

// MarshalJSON implements json.Marshaler: the report is as the migrate command
// writes it.
func (m *demoLiveMove) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := migrate.WriteReport(&b, m.Report)
	return b.Bytes(), err
}

// migrate brings the sandbox to another host while it runs.
func (d *demo) migrate(ctx context.Context, s *sandbox.Sandbox, from, to *demoHost) (*runningDemo, *demoLiveMove, error) {
	own, peer, err := introduceHosts(from, to)
	if err != nil {
		return nil, nil, err
	}
	address, err := d.startAgent(ctx, to)
	if err != nil {
		return nil, nil, err
	}
	d.step("%s: agent listens on %s", to.name, address)
	report, err := migrate.Migrate(ctx, s, migrate.Options{
		Root: from.state, Identity: own, Peer: peer, Address: address, Journals: from.data.journals(), Bundle: to.bundle.Dir,
		// The client writes all the time, and this machine may be a slow one: the
		// demo goes ahead whatever the stop is going to take.
		Budget: convergence.Budget{OnTimeout: convergence.Stop}, Codec: wire.CodecAuto,
		OnEvent: d.phaseSteps(from, to),
	})
	if err != nil {
		return nil, nil, err
	}
	arrived, err := to.state.Open(s.ID)
	if err != nil {
		return nil, nil, err
	}
	output := followServer(arrived, filepath.Join(to.data.outputs(), s.ID+".log"))
	return &runningDemo{arrived, output}, &demoLiveMove{report}, nil
}

// introduceHosts makes each host's key and has the hosts trust each other. It
// returns what the source needs to know.
func introduceHosts(from, to *demoHost) (own hostkey.Identity, peer hostkey.Peer, err error) {
	if own, err = from.data.keys().Init(); err != nil {
		return own, peer, err
	}
	other, err := to.data.keys().Init()
	if err != nil {
		return own, peer, err
	}
	if err := from.data.keys().Trust(demoTargetName, other.Public()); err != nil {
		return own, peer, err
	}
	if err := to.data.keys().Trust(demoSourceName, own.Public()); err != nil {
		return own, peer, err
	}
	peer, err = from.data.keys().Peer(demoTargetName)
	return own, peer, err
}

// startAgent starts a host's agent, in this process, and returns its address on
// the loopback interface. The agent and all that arrives end with the demo.
func (d *demo) startAgent(ctx context.Context, on *demoHost) (address string, err error) {
	identity, err := on.data.keys().Identity()
	if err != nil {
		return "", err
	}
	logger := slog.New(slog.DiscardHandler) // what fails is told to the source too
	receiver := &migrate.Receiver{
		Root: on.state, Journals: on.data.journals(), Outputs: on.data.outputs(),
		Identity: identity, Keys: on.data.keys(), Logger: logger,
	}
	a, err := agent.New(agent.Options{
		Identity: identity, Trust: on.data.keys(), Handle: receiver.Handle, Logger: logger,
		Limits: agent.Limits{Migrations: 1, Grace: demoAgentGrace},
	})
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	// An interrupted demo still needs its agent, to settle what is under way.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, listener) }()
	d.later(func() error { return deleteArrivals(on.state) }) // once nothing more arrives
	d.later(func() error {
		cancel()
		return <-served
	})
	return listener.Addr().String(), nil
}

// deleteArrivals deletes all sandboxes of a host.
func deleteArrivals(root sandbox.Root) error {
	all, err := root.List()
	errs := []error{err}
	for _, s := range all {
		errs = append(errs, s.Delete(context.Background(), true))
	}
	return errors.Join(errs...)
}

// phaseSteps returns what says how a migration goes: its phases, and what each
// round came to.
func (d *demo) phaseSteps(from, to *demoHost) func(migrate.Event) {
	begins := map[migrate.Phase]string{
		migrate.Rounds: from.name + ": memory goes to " + to.name + " in rounds, the server works meanwhile",
		migrate.Pause:  from.name + ": sandbox stands still",
		migrate.Load:   to.name + ": sandbox has all of its memory",
		migrate.Start:  from.name + ": sandbox handed over",
		migrate.Done:   to.name + ": sandbox runs here now, and nowhere else",
	}
	last := migrate.Plan
	return func(e migrate.Event) {
		if e.Phase == last {
			return
		}
		last = e.Phase
		if text, ok := begins[e.Phase]; ok {
			d.step("%s", text)
		}
	}
}

// followServer watches a server that began elsewhere and prints into a file.
func followServer(s *sandbox.Sandbox, path string) *serverOutput {
	o := &serverOutput{ready: make(chan struct{}), ended: make(chan struct{})}
	close(o.ready)
	go func() {
		defer close(o.ended)
		// Without its status the end is an end all the same.
		_, waitErr := s.Wait(context.Background())
		text, err := readServerOutput(path)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.text = text; err != nil || waitErr != nil {
			o.text = fmt.Append(o.text, errors.Join(waitErr, err))
		}
	}()
	return o
}

func readServerOutput(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxServerOutputBytes))
}

// print shows the migration to people.
func (m *demoLiveMove) print(b *strings.Builder) {
	phases := make(checkpoint.Phases, len(m.Phases))
	for i, p := range m.Phases {
		phases[i] = checkpoint.Phase{Name: string(p.Phase), Nanos: p.Nanoseconds}
	}
	timedPhases{phases, m.Total}.print(b, "migration")
	fmt.Fprintln(b, "rounds")
	for _, r := range m.Rounds {
		fmt.Fprintf(b, "  %-10d%12s  %d of %d pages sent, found by %s\n", r.Number, milliseconds(time.Duration(r.Nanoseconds)),
			r.PagesSent+r.PagesZero+r.PagesDuplicate, r.PagesScanned, r.Tracker)
	}
	fmt.Fprintf(b, "  %-10s%12s  %d pages sent in the stop\n", "rest", "", m.PagesResidual)
	demoRow(b, "memory", "%s, in %s sent", bytesText(m.PagesCommitted*demoPageBytes), bytesText(m.WireBytes))
	demoRow(b, "downtime", "%s, the phases from pause to start", milliseconds(time.Duration(m.Downtime)))
}

// demoPageBytes is the size of the pages that a report counts.
const demoPageBytes = 4096
