package inside

import "gvisor.dev/gvisor/pkg/cpuid"

// archState returns the layout of the extended register state.
func archState(fs cpuid.FeatureSet) (bytes uint32, mask uint64, cacheLine uint32) {
	size, _ := fs.ExtendedStateSize()
	return uint32(size), 0, 0
}
