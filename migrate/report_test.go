package migrate

import (
	"bytes"
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sampleReport(t testing.TB) Report {
	t.Helper()
	m := newMachine(Source, stepClock())
	for _, p := range []Phase{Rounds, Pause, State, Residual, Load, Start, Announce, Done} {
		if err := m.Enter(p); err != nil {
			t.Fatal(err)
		}
	}
	r := Report{
		Version: ReportVersion, Sandbox: "redis", Connections: []wire.Fate{{Connection: "tcp 10.9.0.2:80 - 10.9.0.3:5000 ESTABLISHED", Reason: "local address 10.9.0.2 is not there"}},
		Attempt: attempt.ID{1, 2, 3}, Epoch: 4, Role: Source,
		Peer: "host-b", Address: "192.0.2.2:7777", Mode: "precopy", Codec: "auto",
		Rounds: []RoundReport{{
			Number: 1, Tracker: "all", Nanoseconds: 1e9, PagesScanned: 10, PagesSent: 7, PagesZero: 2, PagesDuplicate: 1,
			PagesRemaining: 3, WireBytes: 9000, DirtyBytesPerSecond: 1.5e6, LinkBytesPerSecond: 1e8,
			PredictedDowntime: 45e6, Decision: "stop", Reason: "converged",
		}},
		StateBytes: 1 << 20, MetaBytes: 4096, PagesCommitted: 10, PagesResidual: 3, WireBytes: 12345,
		TargetLoad: 18e6, TargetStart: 1e6, Warnings: []string{"no PAGEMAP_SCAN: hash scan only"},
	}
	r.SetTiming(m.Timing())
	return r
}

func TestReportIsStable(t *testing.T) {
	const golden = "testdata/report.json"
	var b bytes.Buffer
	if err := WriteReport(&b, sampleReport(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Fatalf("a report's JSON changed; within a version only additions may: %s", diff)
	}
	got, err := ReadReport(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleReport(t), got); diff != "" {
		t.Fatal(diff)
	}
}

func TestReportMustAgreeWithItself(t *testing.T) {
	for name, spoil := range map[string]func(*Report){
		"total":         func(r *Report) { r.Total++ },
		"downtime":      func(r *Report) { r.Downtime-- },
		"phase":         func(r *Report) { r.Phases[0].Phase = "coffee" },
		"negative time": func(r *Report) { r.Phases[0].Nanoseconds = -1 },
		"not over":      func(r *Report) { r.Outcome = Rounds },
		"many rounds":   func(r *Report) { r.Rounds = make([]RoundReport, maxReportRounds+1) },
	} {
		r := sampleReport(t)
		spoil(&r)
		if err := WriteReport(new(bytes.Buffer), r); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if _, err := ReadReport(strings.NewReader(`{"version":2}`)); err == nil {
		t.Error("another version is read")
	}
	if _, err := ReadReport(strings.NewReader(strings.Repeat(" ", maxReportBytes+1))); err == nil {
		t.Error("a huge report is read")
	}
}

func TestReportHasNoNaN(t *testing.T) {
	r := sampleReport(t)
	r.Rounds[0].DirtyBytesPerSecond, r.Rounds[0].LinkBytesPerSecond = math.NaN(), math.Inf(1)
	var b bytes.Buffer
	if err := WriteReport(&b, r); err != nil {
		t.Fatal(err)
	}
	if !math.IsNaN(r.Rounds[0].DirtyBytesPerSecond) {
		t.Fatal("the caller's report was changed")
	}
}

func FuzzReadReport(f *testing.F) {
	var b bytes.Buffer
	if err := WriteReport(&b, sampleReport(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadReport(bytes.NewReader(b))
		if err != nil {
			return
		}
		if err := WriteReport(new(bytes.Buffer), r); err != nil && !r.Attempt.IsZero() && r.Began.Year() < 10000 {
			t.Fatalf("a report that was read cannot be written: %v", err)
		}
	})
}

func sampleEvent() Event {
	return Event{
		Time: time.Date(2026, 7, 1, 12, 0, 0, 1, time.UTC), Sandbox: "redis", Phase: Rounds, Round: 3, PagesRemaining: 1024,
		PagesTotal: 262144, WireBytes: 5 << 30, DirtyBytesPerSecond: 12 << 20, LinkBytesPerSecond: 110.5 * (1 << 20),
		PredictedDowntime: 45e6, ETA: 1.04e9, Message: "over budget",
	}
}

func TestEventJSON(t *testing.T) {
	e := sampleEvent()
	e.LinkBytesPerSecond = math.NaN()
	var b bytes.Buffer
	if err := WriteEvent(&b, e); err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"time":"2026-07-01T12:00:00Z","sandbox":"redis","phase":"rounds","round":3,"pagesRemaining":1024,` +
		`"pagesTotal":262144,"wireBytes":5368709120,"dirtyBytesPerSecond":12582912,"linkBytesPerSecond":0,"throttlePercent":0,` +
		`"predictedDowntimeNanoseconds":45000000,"etaNanoseconds":1040000000,"message":"over budget"}` + "\n"
	if b.String() != want {
		t.Fatal(cmp.Diff(want, b.String()))
	}
}

func TestLine(t *testing.T) {
	for _, test := range []struct {
		change func(*Event)
		width  int
		want   string
	}{
		{func(*Event) {}, 0, "round 3: 1,024 pages left (4.0 MiB), dirty 12.0 MiB/s, link 110.5 MiB/s, downtime 45ms, eta 1s, over budget"},
		{func(*Event) {}, 30, "round 3: 1,024 pages left (4.…"},
		{func(e *Event) { *e = Event{Phase: Plan} }, 80, "plan"},
		{func(e *Event) { *e = Event{Phase: Aborted, Message: "no\x1b[2J route\n\u009b"} }, 80, "aborted: no [2J route  "},
		{func(e *Event) {
			*e = Event{Phase: Fetch, PagesTotal: 9, PagesRemaining: 1<<64 - 1, ETA: NotKnown, PredictedDowntime: NotKnown, ThrottlePercent: 40}
		}, 0, "fetch: 18,446,744,073,709,551,615 pages left (68719476736.0 TiB), throttled 40%"},
		{func(e *Event) {
			*e = Event{Phase: Rounds, Round: 1, DirtyBytesPerSecond: math.NaN(), LinkBytesPerSecond: math.Inf(1)}
		}, 0, "round 1: link ?/s"},
	} {
		e := sampleEvent()
		test.change(&e)
		if got := Line(e, test.width); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

func TestETA(t *testing.T) {
	for _, test := range []struct {
		pages uint64
		link  float64
		want  time.Duration
	}{
		{256, 1 << 20, time.Second}, {0, 0, 0}, {0, math.NaN(), 0}, {1, 0, NotKnown}, {1, math.NaN(), NotKnown},
		{1, math.Inf(1), NotKnown}, {1, -1, NotKnown}, {math.MaxUint64, 1e-9, NotKnown},
	} {
		if got := ETAOf(test.pages, test.link); got != test.want {
			t.Errorf("%d pages at %v: %v, want %v", test.pages, test.link, got, test.want)
		}
	}
}

// A report of two attempts accounts for the time of both, and still agrees with itself.
func TestReportOfASecondAttempt(t *testing.T) {
	report := func(phases ...PhaseTime) Report {
		r := Report{Version: ReportVersion, WireBytes: 10}
		r.SetTiming(Timing{Phases: phases, Outcome: Done, Began: time.Unix(int64(len(phases)), 0)})
		return r
	}
	first := report(PhaseTime{Plan, 1}, PhaseTime{Rounds, 2}, PhaseTime{Pause, 3})
	r := report(PhaseTime{Plan, 10}, PhaseTime{Rounds, 20}, PhaseTime{Pause, 30}, PhaseTime{State, 40}, PhaseTime{Announce, 50})
	r.addAttempt(first)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if r.Total != 156 || r.Downtime != 73 || r.WireBytes != 20 || !r.Began.Equal(first.Began) {
		t.Errorf("%+v", r)
	}
}
