package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// The ways to run that exist for measurements do what they say, as the report of a migration shows.
func TestTracking(t *testing.T) {
	for _, test := range []struct {
		tracking string
		rounds   string // what must find pages in some round
		refused  string // or why it does not move
	}{
		{tracking: "on", rounds: "write-protect"},
		{tracking: "off", rounds: "hash-scan"},
		{tracking: "always", refused: "armed already"},
	} {
		t.Run(test.tracking, func(t *testing.T) {
			p := newPair(t)
			b := guest.Bundle{Args: []string{"/bin/sh", "-c", "while :; do /bin/busybox usleep 1000; done"}}
			p.a.mustLaunch("churn", "run", "--detach", "--tracking", test.tracking, "--bundle", p.a.bundle("churn", b), "churn")
			flags := []string{"--verify", "--max-downtime", "1ms", "--timeout", "10s", "--on-timeout", "stop", "--bundle", p.b.bundle("churn", b)}
			if test.refused != "" {
				if r := p.a.migrate("churn", p.b, flags...); r.code == 0 || !strings.Contains(r.stderr, test.refused) {
					t.Errorf("want a refusal because of %q: %v", test.refused, r)
				}
				return
			}
			report := p.a.mustMigrate("churn", p.b, flags...)
			var found []string
			for _, r := range report.Rounds {
				found = append(found, r.Tracker)
			}
			if !slices.Contains(found, test.rounds) {
				t.Errorf("pages were found by %q, never by %s", found, test.rounds)
			}
			if tracked := slices.Contains(found, "write-protect"); tracked != (test.tracking == "on") {
				t.Errorf("pages were found by %q", found)
			}
		})
	}
	h := newHost(t)
	if said := h.refuses("run", "--tracking", "sometimes", "--bundle", h.bundle("b", guest.Bundle{}), "b"); !strings.Contains(said, "sometimes") {
		t.Errorf("a nonsense value is refused with %q", said)
	}
}
