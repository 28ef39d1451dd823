package checkpoint

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

func TestCheckMemoryLimit(t *testing.T) {
	const memory = 100 << 20
	limit := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}
	}
	for name, c := range map[string]struct {
		linux *specs.Linux
		fits  bool
	}{
		"no section": {nil, true},
		"no cgroup":  {&specs.Linux{Resources: limit(1)}, true},
		"no limit":   {&specs.Linux{CgroupsPath: "/x"}, true},
		"unlimited":  {&specs.Linux{CgroupsPath: "/x", Resources: limit(-1)}, true},
		"fits":       {&specs.Linux{CgroupsPath: "/x", Resources: limit(memory + sentryBytes)}, true},
		"too small":  {&specs.Linux{CgroupsPath: "/x", Resources: limit(memory + sentryBytes - 1)}, false},
	} {
		p := new(Plan)
		p.checkMemoryLimit(&sandbox.Bundle{Spec: &specs.Spec{Linux: c.linux}}, memory)
		if p.Refuses() == c.fits {
			t.Errorf("%s: %+v", name, p.Findings)
		}
	}
}
