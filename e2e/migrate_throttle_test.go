package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// A program that changes memory faster than a slow link takes it stays where it is; with some of its time taken from it, it moves.
func TestMigrateThrottle(t *testing.T) {
	p := newPair(t)
	b := torture(tortureRoot(t), "write")
	p.a.run("writer", p.a.bundle("writer", b))
	goesOnWith(p.a.host, "writer", tortureCounts)
	// All that it changes, 4 MiB, takes much longer than the budget.
	bundle := p.b.bundle("writer", b)
	slow := func(bandwidth string, more ...string) []string {
		return append([]string{"--bandwidth", bandwidth, "--compress", "none", "--max-downtime", "150ms", "--bundle", bundle}, more...)
	}

	if r := p.a.migrate("writer", p.b, slow("8")...); r.code == 0 || !strings.Contains(r.stderr, "E_NOT_CONVERGED") {
		t.Fatalf("the writer does not outrun the link: %v", r)
	}
	report := p.a.lastReport("writer")
	last := report.Rounds[len(report.Rounds)-1]
	if report.Outcome != "aborted" || last.Decision != "abort" || last.Reason != "stalled" && last.Reason != "timeout" {
		t.Errorf("it did not move: %+v", report)
	}
	goesOnWith(p.a.host, "writer", tortureCounts)

	report = p.a.mustMigrate("writer", p.b, slow("16", "--throttle", "95", "--verify")...)
	throttled, steps := 0, 0
	for i, r := range report.Rounds {
		t.Logf("round %d: %+v", i+1, r)
		if r.ThrottlePercent < throttled || r.ThrottlePercent > throttled+20 || r.ThrottlePercent > 95 {
			t.Errorf("round %d was throttled by %d %%, the one before by %d %%", i+1, r.ThrottlePercent, throttled)
		}
		if r.ThrottlePercent != throttled && report.Rounds[i-1].Decision != "throttle" {
			t.Errorf("round %d was throttled by %d %% though the decision before was %q", i+1, r.ThrottlePercent, report.Rounds[i-1].Decision)
		}
		throttled = r.ThrottlePercent
		if r.Decision == "throttle" {
			steps++
		}
	}
	if steps == 0 || throttled == 0 {
		t.Errorf("it moved after %d steps of throttling, to %d %%", steps, throttled)
	}
	if end := report.Rounds[len(report.Rounds)-1]; end.Decision != "stop" || end.Reason != "converged" {
		t.Errorf("the rounds ended with %q, %q", end.Decision, end.Reason)
	}
	goesOnWith(p.b.host, "writer", tortureCounts)
}

// lastReport is the report of a sandbox's last migration away from the host.
func (h *peerHost) lastReport(id string) (report migrationReport) {
	h.t.Helper()
	out := h.must("report", "--json", "--data", h.data(), id)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		h.t.Fatalf("report: %v: %s", err, out)
	}
	return report
}
