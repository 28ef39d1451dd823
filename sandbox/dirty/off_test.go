package dirty

import (
	"errors"
	"testing"

	"gvisor.dev/gvisor/pkg/context"
)

// A Tracker that is off stands nowhere between the kernel and the platform, and says so when it is asked to track.
func TestOff(t *testing.T) {
	host := newFakeHost(1)
	tr := host.tracker(Options{Off: true})
	space, err := tr.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	if _, bare := space.(*fakeSpace); !bare {
		t.Errorf("address space is a %T", space)
	}
	if c := tr.NewContext(context.Background()); c.(*fakeContext).host != host {
		t.Errorf("context is a %T", c)
	}
	if _, err := tr.Arm(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("arming gives %v, want %v", err, ErrUnsupported)
	}
	if err := tr.Throttle(20); !errors.Is(err, ErrUnsupported) {
		t.Errorf("throttling gives %v, want %v", err, ErrUnsupported)
	}
	if got := tr.MappedPages().Count(); got != 0 {
		t.Errorf("%d pages are known to be mapped", got)
	}
}
