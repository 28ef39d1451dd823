package migrate

import (
	"context"
	"errors"
	"sync"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// prepare answers a plan with findings, and starts the standby if none is fatal.
func (t *target) prepare(ctx context.Context, m *wire.Plan) error {
	if err := t.session.Admit(m.Files[0].Pages * pages.PageSize); err != nil {
		return refuse(t.session, codeLimit, err)
	}
	d, err := readPlan(m)
	if err != nil {
		return refuse(t.session, codePlan, err)
	}
	if override, ok := t.receiver.Bundles[t.id]; ok {
		d.Bundle = override
	}
	if t.bundle != "" {
		d.Bundle = t.bundle
	}
	bundle, err := sandbox.LoadBundle(d.Bundle)
	if err != nil {
		return refuse(t.session, codePlan, err)
	}
	furtherBundles, furtherFindings := t.loadFurther(d)
	plan, err := checkpoint.PlanFor(&d.Config, checkpoint.PlanOptions{
		Bundle: bundle, Further: furtherBundles, Policy: d.Policy, Map: d.Map, MemoryBytes: d.MemoryBytes,
	})
	if err != nil {
		return refuse(t.session, codePlan, err)
	}
	findings := append(furtherFindings, findingsOf(plan, wire.MaxFindings-2-len(furtherFindings))...)
	if f := t.receiver.checkTerminals(bundle, plan); f != nil {
		findings = append(findings, *f)
	}
	if _, err := t.receiver.Root.Open(t.id); !errors.Is(err, sandbox.ErrNotFound) {
		findings = append(findings, wire.Finding{
			Code: "exists", Subject: "sandbox " + t.id, Fatal: true, Message: "the target has a sandbox of this ID: delete it first",
		})
	}
	answer := &wire.Findings{Findings: findings, Connections: fatesOf(plan)}
	for _, f := range findings {
		if f.Fatal {
			return t.session.Control.Send(answer)
		}
	}
	if err := t.startStandby(ctx, plan, bundle, &d.Config, m.Files); err != nil {
		return refuse(t.session, codeStandby, err)
	}
	failpoint.Here(failpoint.TargetStandby)
	return t.session.Control.Send(answer)
}

// findingsOf returns what stands in a plan, at most so many.
func findingsOf(plan *checkpoint.Plan, most int) []wire.Finding {
	findings := []wire.Finding{}
	for _, f := range plan.Findings {
		if len(findings) == most {
			break
		}
		findings = append(findings, wire.Finding{
			Code: f.Code, Subject: firstBytes(f.Subject, wire.MaxTextBytes), Message: firstBytes(f.String(), wire.MaxTextBytes), Fatal: f.Refuses,
		})
	}
	return findings
}

func (t *target) startStandby(ctx context.Context, plan *checkpoint.Plan, bundle *sandbox.Bundle, config *image.Config, files []wire.MemoryFile) error {
	streams, err := t.receiver.openStreams(t.id, bundle, plan)
	if err != nil {
		return err
	}
	further, standIns, err := t.openFurther(config)
	if err != nil {
		streams.terminals.close()
		for _, f := range streams.stdio {
			f.Close()
		}
		for _, f := range streams.slaves {
			f.Close()
		}
		return err
	}
	standby, err := checkpoint.NewStandby(ctx, t.receiver.Root, plan, checkpoint.StandbyOptions{
		From: cameBy(t.session.Attempt(), t.session.Peer.Name), Whole: !Mode(t.hello.Mode).MayLeavePages(), Terminals: streams.slaves, Further: further,
		Create: sandbox.CreateOptions{ID: t.id, Bundle: bundle, Stdio: streams.stdio, Output: t.receiver.outputPath(t.id), OwnsBundle: t.bundle != ""},
	})
	if err != nil {
		streams.terminals.close()
		closeStandIns(standIns)
		return err
	}
	t.arrival = &arrival{standby: standby, standIns: standIns, terminals: streams.terminals, plan: plan}
	t.inbox = newInbox(standby.Memory, int(t.hello.DataConnections), t.arrival.packet)
	t.inbox.refuse = t.refusePages()
	t.inbox.charger = newCharger(standby.Charges(), standby.Charge)
	t.inbox.postcopy = Mode(t.hello.Mode).MayLeavePages()
	t.inbox.resize(files)
	go t.inbox.state.pump(standby.State)
	go t.inbox.meta.pump(standby.Metadata)
	return nil
}

// refusePages returns what refuses the attempt once, at once: the source may be sending, and wait for nothing else. It ends the data
// connections, so that it does not wait for them either.
func (t *target) refusePages() func(error) {
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			refuse(t.session, codePages, err)
			for _, conn := range t.conns {
				conn.Close()
			}
		})
	}
}
