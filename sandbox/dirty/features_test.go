package dirty

import (
	"errors"
	"strings"
	"testing"
)

// TestDetect also guards the other tests of this package: they need a kernel
// that has everything, and fail loudly where it has not.
func TestDetect(t *testing.T) {
	f := Detect()
	for _, feature := range f.All() {
		t.Logf("%s: %v %s", feature.Name, feature.OK, feature.Reason)
	}
	if err := f.Err(); err != nil {
		t.Fatalf("this kernel cannot run the tests: %v", err)
	}
}

func TestFeaturesErrNamesWhatIsMissing(t *testing.T) {
	f := Detect()
	f.PagemapScan = feature("PAGEMAP_SCAN", errors.New("inappropriate ioctl"))
	err := f.Err()
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "PAGEMAP_SCAN (inappropriate ioctl)") {
		t.Errorf("error is %v", err)
	}
}
