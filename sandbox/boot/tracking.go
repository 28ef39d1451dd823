package boot

import (
	"errors"
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// What can be done about the pages that a sandbox dirties. All but the default
// are there to measure what tracking costs.
const (
	// TrackingOn tracks while somebody asks for it. The empty string means it.
	TrackingOn = "on"

	// TrackingOff leaves the tracker out. A migration compares all memory
	// instead. What tracking needs of the host is open in any case: the process
	// opens it before it knows.
	TrackingOff = "off"

	// TrackingAlways tracks from the start on, with a collection every
	// alwaysInterval, as it is while a migration is under way. The sandbox
	// cannot be migrated.
	TrackingAlways = "always"
)

// alwaysInterval is about what a round of a migration takes.
const alwaysInterval = 250 * time.Millisecond

// CheckTracking refuses what is none of these.
func CheckTracking(how string) error {
	switch how {
	case "", TrackingOn, TrackingOff, TrackingAlways:
		return nil
	}
	return fmt.Errorf("tracking is %q, want %s, %s or %s", how, TrackingOn, TrackingOff, TrackingAlways)
}

// firstTrackingFD is the number of the first of the two descriptors of dirty
// tracking, and controlFD that of the control socket: far above what is handed
// over, so that the seccomp filter is always the same. trapFD is that of a trap for
// missing memory, if there is one.
const (
	trapFD          = spare.TableFD - 3
	firstTrackingFD = spare.TableFD - 2
	controlFD       = spare.TableFD
)

// newTracker wraps a platform so that the pages that the guest dirties can be
// tracked. Where the host's kernel cannot do that, nothing is lost but the
// tracking: what needs it says so when it is asked for.
func newTracker(p platform.Platform, descriptors dirty.Descriptors, how string) *dirty.Tracker {
	return dirty.Wrap(p, dirty.Options{Descriptors: descriptors, Off: how == TrackingOff})
}

// openTracking opens what dirty tracking needs, however the sandbox will be run.
func openTracking() (dirty.Descriptors, error) {
	descriptors, err := dirty.OpenDescriptors()
	if errors.Is(err, dirty.ErrUnsupported) {
		log.Infof("memory is scanned instead of tracked: %v", err)
		return dirty.Descriptors{}, nil
	}
	if err != nil {
		return dirty.Descriptors{}, err
	}
	return descriptors.Move(firstTrackingFD)
}

// trackAlways does what TrackingAlways says, as long as the container runs.
func (s *Sandbox) trackAlways() error {
	if _, err := s.platform.Arm(); err != nil {
		return fmt.Errorf("track all the time: %w", err)
	}
	go func() {
		ticker := time.NewTicker(alwaysInterval)
		defer ticker.Stop()
		for {
			select {
			case <-s.first.ended:
				return
			case <-ticker.C:
				if _, _, err := s.platform.Collect(); err != nil {
					log.Warningf("memory is no longer tracked: %v", err)
					return
				}
			}
		}
	}()
	return nil
}
