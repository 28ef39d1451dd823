package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// plan asks whether the sandbox may move.
func (s *source) plan(ctx context.Context) (err error) {
	s.tell("")
	if s.live, err = checkpoint.OpenLive(ctx, s.sb); err != nil {
		return err
	}
	if s.survey, err = s.live.Survey(ctx); err != nil {
		return err
	}
	if len(s.survey.Findings) > 0 {
		return &checkpoint.UnsavableError{Findings: s.survey.Findings}
	}
	s.report.Warnings = append(s.report.Warnings, s.survey.Warnings()...)
	if s.memory, err = s.live.Memory(ctx); err != nil {
		return err
	}
	build, err := thisBuild()
	if err != nil {
		return err
	}
	s.hello = &wire.Hello{
		Build: build, Sandbox: s.sb.ID, Epoch: s.epoch, Mode: string(s.opts.wireMode()), DataConnections: uint16(s.opts.DataConnections),
	}
	if s.link, err = s.to.dial(ctx, s.id); err != nil {
		return err
	}
	if err := s.link.control.Send(s.hello); err != nil {
		return err
	}
	if _, err := expectRunning[*wire.Welcome](ctx, s, s.idlePatience); err != nil {
		return err
	}
	if s.opts.SendBundle {
		if err := s.sendBundle(ctx); err != nil {
			return fmt.Errorf("send bundle: %w", err)
		}
	}
	if err := s.ask(ctx); err != nil {
		return err
	}
	return s.openLanes(ctx)
}

// openLanes opens the data connections, if they are not open yet.
func (s *source) openLanes(ctx context.Context) error {
	if s.lanes != nil {
		return nil
	}
	conns, err := s.to.dialData(ctx, s.id, s.opts.DataConnections)
	if err != nil {
		return err
	}
	if s.lanes, err = newLanes(ctx, conns, s.opts.Codec, wire.NewPace(s.opts.BytesPerSecond)); err != nil {
		return err
	}
	// Who waits for a slow peer to read ends with the migration.
	context.AfterFunc(ctx, s.lanes.close)
	return nil
}

// ask sends the plan and takes the findings.
func (s *source) ask(ctx context.Context) error {
	config, err := checkpoint.Describe(s.sb, s.survey, s.survey.MemoryBytes)
	if err != nil {
		return err
	}
	if s.opts.Policy == restoreenv.PolicyRelaxed {
		if config.Connections, err = s.describeConnections(); err != nil {
			return err
		}
	}
	if s.opts.SendBundle && len(s.survey.Containers) > 0 {
		return errors.New("a sandbox of several containers does not bring its bundles: put them on the target, and name them with --bundle")
	}
	d := document{Config: config, Bundle: s.opts.Bundle, Policy: s.opts.Policy, Map: s.opts.Map}
	if d.Bundles, err = s.furtherBundles(); err != nil {
		return err
	}
	if d.MemoryBytes, err = allocatedBytes(s.memory); err != nil {
		return err
	}
	plan, err := d.plan(s.survey.MemoryBytes / pages.PageSize)
	if err != nil {
		return err
	}
	if err := s.link.control.Send(plan); err != nil {
		return err
	}
	return s.takeFindings(ctx, s.planPatience())
}

// takeFindings awaits what the target has found. Those that are fatal are the error,
// the others become warnings.
func (s *source) takeFindings(ctx context.Context, patience time.Duration) error {
	answer, err := expectRunning[*wire.Findings](ctx, s, patience)
	if err != nil {
		return err
	}
	s.report.Connections = answer.Connections
	fatal := false
	for _, f := range answer.Findings {
		fatal = fatal || f.Fatal
		if !f.Fatal {
			s.report.Warnings = append(s.report.Warnings, fmt.Sprintf("%s: %s: %s", f.Code, f.Subject, f.Message))
		}
	}
	if fatal {
		return &FindingsError{Findings: answer.Findings}
	}
	return nil
}
