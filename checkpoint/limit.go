package checkpoint

import (
	"fmt"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// CodeMemoryLimit is the finding that the saved memory does not fit below the limit
// that the bundle sets.
const CodeMemoryLimit = "E_PLAN_MEMORY_LIMIT"

// sentryBytes is about what a sandbox process needs beside the sandbox's memory.
const sentryBytes = 32 << 20

// checkMemoryLimit looks whether a sandbox's memory fits below the limit that its cgroup
// would have here. The host would otherwise end the sandbox when that is reached.
func (p *Plan) checkMemoryLimit(bundle *sandbox.Bundle, memoryBytes uint64) {
	linux := bundle.Spec.Linux
	if linux == nil || linux.CgroupsPath == "" || linux.Resources == nil || linux.Resources.Memory == nil {
		return
	}
	limit := linux.Resources.Memory.Limit
	if limit == nil || *limit <= 0 || memoryBytes+sentryBytes <= uint64(*limit) {
		return
	}
	p.Findings = append(p.Findings, Finding{
		Code: CodeMemoryLimit, Refuses: true, Subject: "linux.resources.memory.limit",
		Saved:  fmt.Sprintf("%d bytes of memory, and its process needs some %d more", memoryBytes, sentryBytes),
		Target: fmt.Sprintf("%d bytes", *limit), Remedy: "raise the limit in the bundle",
	})
}
