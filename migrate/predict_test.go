package migrate

import (
	"testing"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
)

// TestFixedDowntime counts what runs inside.
func TestFixedDowntime(t *testing.T) {
	s := &source{tracked: true, survey: &inside.Survey{}}
	if got := s.fixedDowntime(); got != fixedDowntime {
		t.Errorf("without processes: %v", got)
	}
	for range 50 {
		s.survey.Processes = append(s.survey.Processes, inside.Process{Threads: 2})
	}
	if got, want := s.fixedDowntime(), fixedDowntime+80*time.Millisecond; got != want {
		t.Errorf("50 processes of 2 threads: %v, want %v", got, want)
	}
}
