package migrate

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

func TestPageShowsTheReportAndObeysNothingInIt(t *testing.T) {
	r := Report{
		Version: ReportVersion, Sandbox: "<script>alert(1)</script>", Attempt: attempt.New(), Outcome: Done, Total: 5, Downtime: 2,
		Phases:   []PhaseTime{{Plan, 3}, {Load, 2}},
		Rounds:   []RoundReport{{Number: 1, PagesSent: 12345, Decision: "stop"}, {Number: 2}},
		Warnings: []string{"a fallback"},
	}
	var page bytes.Buffer
	if err := WritePage(&page, r); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, want := range []string{"12,345 pages", "a fallback", "load", r.Attempt.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, no := range []string{"<script>", "http://", "https://", "NaN", "ZgotmplZ"} {
		if strings.Contains(text, no) {
			t.Errorf("the page has %q", no)
		}
	}
}
