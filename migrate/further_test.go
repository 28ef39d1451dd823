package migrate

import (
	"testing"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// The saved kernel must have the containers that the target was told of.
func TestSameContainers(t *testing.T) {
	names := func(names ...string) (all []boot.ContainerState) {
		for _, n := range names {
			all = append(all, boot.ContainerState{Name: n})
		}
		return all
	}
	for _, c := range []struct {
		planned, saved []boot.ContainerState
		same           bool
	}{
		{nil, nil, true},
		{names("a", "b"), names("a", "b"), true},
		{names("a"), names("a", "b"), false},
		{names("a", "b"), names("a"), false},
		{names("a"), names("b"), false},
		{[]boot.ContainerState{{Name: "a", PID: 7}}, []boot.ContainerState{{Name: "a", PID: 8}}, false},
	} {
		if got := sameContainers(c.planned, c.saved); got != c.same {
			t.Errorf("%v and %v: %v", c.planned, c.saved, got)
		}
	}
}

// What a peer says of containers is findings or is refused, whatever it is.
func TestHostileContainers(t *testing.T) {
	target := &target{receiver: &Receiver{Root: sandbox.Root(t.TempDir())}}
	d := &document{}
	for i := range wire.MaxFindings {
		d.Config.Containers = append(d.Config.Containers, image.Container{Name: string(make([]byte, wire.MaxTextBytes+i)), ID: "../../etc"})
	}
	bundles, findings := target.loadFurther(d)
	if len(bundles) != 0 || len(findings) == 0 || len(findings) > wire.MaxFindings/2 {
		t.Errorf("%d bundles, %d findings", len(bundles), len(findings))
	}
	for _, f := range findings {
		if !f.Fatal || len(f.Subject) > wire.MaxTextBytes || len(f.Message) > wire.MaxTextBytes {
			t.Fatalf("finding %q: %q", f.Code, f.Subject)
		}
	}
	d.Config.Containers = make([]image.Container, image.MaxContainers+1)
	m, err := d.plan(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readPlan(m); err == nil {
		t.Error("more containers than a sandbox can have are read")
	}
}
