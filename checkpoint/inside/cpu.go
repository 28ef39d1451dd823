package inside

import (
	"runtime"
	"strings"

	"gvisor.dev/gvisor/pkg/cpuid"
)

// ReadCPU describes this host's processor. cpuid must be initialized.
func ReadCPU() CPU { return readCPU() }

func readCPU() CPU {
	fs := cpuid.HostFeatureSet()
	cpu := CPU{Arch: runtime.GOARCH, Features: strings.Fields(fs.FlagString())}
	cpu.XSAVEBytes, cpu.XSAVEMask, cpu.CacheLineBytes = archState(fs)
	return cpu
}
