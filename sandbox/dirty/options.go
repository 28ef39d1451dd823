package dirty

import "github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"

// Set is a set of pages of the memory file.
type Set = pages.Set

const (
	pageSize = pages.PageSize

	defaultMinClusterBytes = 64 << 10
	defaultMaxClusterBytes = 1 << 20
	defaultFaultsPerStep   = 512
)

// Options says how to track. The zero value cannot be armed; everything else
// has sensible defaults.
type Options struct {
	// Descriptors are needed to arm. The Tracker borrows them: the caller
	// closes them after its last call.
	Descriptors Descriptors

	// MinClusterBytes and MaxClusterBytes bound how much memory one write fault
	// makes writable, and dirty. Powers of two, and at least a page. Defaults
	// 64 KiB and 1 MiB.
	MinClusterBytes, MaxClusterBytes uint64

	// FaultsPerStep is the number of faults in one interval between collections
	// after which the cluster size doubles. Default 512, which bounds the
	// faults that an application suffers in an interval to about 2,000 and one
	// for each MiB that it writes.
	FaultsPerStep uint64

	// Off leaves the wrapped platform's address spaces and contexts as they are:
	// nothing stands between them and the kernel, and the Tracker cannot be armed.
	// With it one sees what tracking costs while nothing is tracked.
	Off bool

	// Disable switches parts of the tracking off, and thereby breaks it. It
	// exists for tests, to show that an audit finds what is missed.
	Disable Rule
}

// Rule is a set of parts of the tracking.
type Rule uint

const (
	// RuleSentryWrites finds what the sentry writes.
	RuleSentryWrites Rule = 1 << iota
	// RuleMappings marks frames that are mapped, unmapped or released.
	RuleMappings
	// RuleReusedFrames finds frames that were decommitted and used again: the
	// witness, and the marks for madvise(2).
	RuleReusedFrames
)

func (o Options) withDefaults() Options {
	if o.MinClusterBytes == 0 {
		o.MinClusterBytes = defaultMinClusterBytes
	}
	if o.MaxClusterBytes == 0 {
		o.MaxClusterBytes = max(defaultMaxClusterBytes, o.MinClusterBytes)
	}
	if o.FaultsPerStep == 0 {
		o.FaultsPerStep = defaultFaultsPerStep
	}
	return o
}

// clusterBytes returns the size of a cluster after so many faults in the
// current interval. It counts faults and not time, so that the same load gives
// the same sets on a slow machine.
func (o *Options) clusterBytes(faults uint64) uint64 {
	size := o.MinClusterBytes
	for step := o.FaultsPerStep; size < o.MaxClusterBytes && faults >= step; step += o.FaultsPerStep {
		size *= 2
	}
	return size
}
