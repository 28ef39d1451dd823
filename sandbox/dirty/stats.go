package dirty

import (
	"sync/atomic"
	"time"
)

// Stats tells what one Arm or one collection found and took. Faults, Retries and
// Widened count since the collection before.
type Stats struct {
	Pages         uint64 // in the set
	SentryPages   uint64 // written by the sentry
	VanishedPages uint64 // freed, and perhaps used again

	AddressSpaces int
	Remapped      uint64 // mappings made read-only
	Unprotected   uint64 // mappings that could not be, and stay dirty

	Faults       uint64 // write faults that opened a cluster
	Retries      uint64 // write faults that another thread had dealt with
	Widened      uint64 // faults that hit the host's limit on mappings
	ClusterBytes uint64 // cluster size at the end of the interval

	SentryTime  time.Duration // scanning the sentry's mappings
	ProtectTime time.Duration // protecting the application's mappings
	WitnessTime time.Duration // looking for freed pages, and watching the set
}

// counters are what goroutines of tasks count.
type counters struct {
	faults, retries, widened atomic.Uint64
}

// take moves the counts into s.
func (c *counters) take(s *Stats, o *Options) {
	s.Faults = c.faults.Swap(0)
	s.Retries = c.retries.Swap(0)
	s.Widened = c.widened.Swap(0)
	s.ClusterBytes = o.clusterBytes(s.Faults)
}
