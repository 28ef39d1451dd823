package dirty

import (
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/cpuid"
)

func TestMain(m *testing.M) {
	cpuid.Initialize()
	if argument := os.Getenv(tortureVariable); argument != "" {
		os.Exit(tortureMain(argument))
	}
	os.Exit(m.Run())
}
