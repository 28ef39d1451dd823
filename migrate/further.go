package migrate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// The containers that a sandbox has besides its first move with it: each with its
// bundle, its output and a process that stands for it on the target.

// A StandIn is a process of this host that stands for a container besides the first,
// see sandbox.CreateOptions.
type StandIn interface {
	PID() int
	// Assign says that the container is there. From then on the process lives as
	// long as that, and whatever becomes of this one.
	Assign() error
	// Close lets go of the process. It ends then, unless it was assigned.
	Close()
}

// errContainers says that the saved kernel has other containers than the plan, so
// that the target's standby, which was started for those, cannot load it.
var errContainers = errors.New("a container was started or has ended while memory moved: try again")

// furtherBundles completes where the bundles of the containers besides the first are
// on the target: where they are here, unless something else was asked for.
func (s *source) furtherBundles() (map[string]string, error) {
	asked := s.opts.Further
	if len(s.survey.Containers) == 0 {
		return nil, unknownContainers(asked, nil)
	}
	all, err := s.sb.Containers()
	if err != nil {
		return nil, err
	}
	bundles := make(map[string]string)
	for _, c := range s.survey.Containers {
		if at := slices.IndexFunc(all, func(sb *sandbox.Sandbox) bool { return sb.Name == c.Name }); at >= 0 {
			bundles[c.Name] = all[at].Bundle
		}
		if dir, ok := asked[c.Name]; ok {
			bundles[c.Name] = dir
		}
	}
	return bundles, unknownContainers(asked, bundles)
}

func unknownContainers(asked, known map[string]string) error {
	for name := range asked {
		if _, ok := known[name]; !ok {
			return fmt.Errorf("there is a bundle for a container %q, which the sandbox does not have", name)
		}
	}
	return nil
}

// sameContainers says whether the saved kernel has the containers of the plan.
func sameContainers(planned, saved []boot.ContainerState) bool {
	return slices.EqualFunc(planned, saved, func(a, b boot.ContainerState) bool { return a.Name == b.Name && a.PID == b.PID })
}

// loadFurther reads the bundles of the containers besides the first, and finds what
// keeps them from coming here.
func (t *target) loadFurther(d *document) (map[string]*sandbox.Bundle, []wire.Finding) {
	bundles := make(map[string]*sandbox.Bundle)
	var findings []wire.Finding
	for _, c := range further(&d.Config) {
		find := func(code, message string) {
			findings = append(findings, wire.Finding{
				Code: code, Subject: firstBytes("container "+c.Name, wire.MaxTextBytes), Message: firstBytes(message, wire.MaxTextBytes), Fatal: true,
			})
		}
		dir := d.Bundles[c.Name]
		if override, ok := t.receiver.Bundles[c.ID]; ok {
			dir = override
		}
		bundle, err := sandbox.LoadBundle(dir)
		if err != nil {
			find("bundle", err.Error())
			continue
		}
		bundles[c.Name] = bundle
		if bundle.Spec.Process.Terminal {
			find("terminal", "a container with a terminal cannot move: nobody holds its other end on the target")
		}
		if _, err := t.receiver.Root.Open(c.ID); !errors.Is(err, sandbox.ErrNotFound) {
			find("exists", fmt.Sprintf("the target has a container %q already, or cannot have one: delete it first", c.ID))
		}
		if t.receiver.StandIns == nil {
			find(codeContainers, "this target takes sandboxes of one container only")
		}
	}
	if len(findings) > wire.MaxFindings/2 {
		findings = findings[:wire.MaxFindings/2]
	}
	return bundles, findings
}

// further are the containers of a plan besides the first.
func further(c *image.Config) []image.Container { return c.Containers[min(1, len(c.Containers)):] }

// openFurther opens what the containers besides the first get on this host. On an
// error nothing is left open.
func (t *target) openFurther(config *image.Config) (_ map[string]checkpoint.FurtherOptions, _ []StandIn, err error) {
	opts := make(map[string]checkpoint.FurtherOptions)
	var standIns []StandIn
	defer func() {
		if err == nil {
			return
		}
		closeStandIns(standIns)
		for _, o := range opts {
			for _, f := range o.Stdio {
				f.Close()
			}
		}
	}()
	for _, c := range further(config) {
		standIn, err := t.receiver.StandIns(c.ID)
		if err != nil {
			return nil, nil, err
		}
		standIns = append(standIns, standIn)
		stdio, err := t.receiver.openOutput(c.ID)
		if err != nil {
			return nil, nil, err
		}
		opts[c.Name] = checkpoint.FurtherOptions{ID: c.ID, Stdio: stdio, StandIn: standIn.PID(), Output: t.receiver.outputPath(c.ID)}
	}
	return opts, standIns, nil
}

// assignAll tells stand-ins that their containers run. Nobody waits for it, and a
// container can do without.
func assignAll(all []StandIn) {
	for _, s := range all {
		s.Assign()
		s.Close()
	}
}

func closeStandIns(all []StandIn) {
	for _, s := range all {
		s.Close()
	}
}
