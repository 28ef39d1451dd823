package inside

import (
	"runtime"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/cpuid"
)

// ReadCPU describes this host's processor. cpuid must be initialized.
func ReadCPU() CPU { return readCPU() }

func readCPU() CPU {
	fs := cpuid.HostFeatureSet()
	features := strings.Fields(fs.FlagString())
	slices.Sort(features)
	cpu := CPU{Arch: runtime.GOARCH, Features: features}
	cpu.XSAVEBytes, cpu.XSAVEMask, cpu.CacheLineBytes = archState(fs)
	return cpu
}
