package dirty

import (
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/cpuid"
)

func TestMain(m *testing.M) {
	cpuid.Initialize()
	os.Exit(m.Run())
}
