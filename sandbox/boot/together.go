package boot

import (
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// togetherFor is how long the threads of a sandbox's kernel and its gofer share a CPU after the start. A program that starts is one thread as a
// rule, and each of its requests goes through several threads, of which one works and the others wait. On a CPU each, every step
// wakes one that sleeps, which takes the host's kernel longer than most requests take. The guest's own code is not bound.
const togetherFor = 150 * time.Millisecond

// stayTogether begins that, where the sandbox was given a CPU. It is best effort: without it a start only takes longer.
func (s *Sandbox) stayTogether() {
	if s.cfg.StartCPU == nil || s.allowed == nil || s.cfg.Platform != DefaultPlatform {
		return
	}
	failed := func(err error) { log.Warningf("%v", err) }
	if err := s.allowed.TogetherFor(*s.cfg.StartCPU, togetherFor, failed); err != nil {
		log.Infof("%v", err)
	}
}
