package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// ReportVersion is the version of Report's JSON. Fields are only ever added within a version.
const ReportVersion = 1

// Bounds of a report that is read back.
const (
	maxReportBytes  = 4 << 20
	maxReportRounds = 10_000
)

// RoundReport is one round of pre-copy.
type RoundReport struct {
	Number              int     `json:"number"`
	Tracker             string  `json:"tracker"` // what found the pages: all, hash-scan, write-protect
	Nanoseconds         int64   `json:"nanoseconds"`
	PagesScanned        uint64  `json:"pagesScanned"`
	PagesSent           uint64  `json:"pagesSent"`      // with their content
	PagesZero           uint64  `json:"pagesZero"`      // as references
	PagesDuplicate      uint64  `json:"pagesDuplicate"` // as references
	PagesPunched        uint64  `json:"pagesPunched"`   // as holes
	PagesRemaining      uint64  `json:"pagesRemaining"` // when it was over
	WireBytes           uint64  `json:"wireBytes"`      // after compression, with headers
	DirtyBytesPerSecond float64 `json:"dirtyBytesPerSecond"`
	LinkBytesPerSecond  float64 `json:"linkBytesPerSecond"`
	ThrottlePercent     int     `json:"throttlePercent"`
	PredictedDowntime   int64   `json:"predictedDowntimeNanoseconds"`
	Decision            string  `json:"decision"` // what came next
	Reason              string  `json:"reason"`
}

// Report is what is known about a migration once it is over. It is kept with the sandbox.
type Report struct {
	Version int           `json:"version"`
	Sandbox string        `json:"sandbox"`
	Attempt attempt.ID    `json:"attempt"`
	Epoch   attempt.Epoch `json:"epoch"`
	Role    Role          `json:"role"`
	Peer    string        `json:"peer"` // name under which its key is trusted
	Address string        `json:"address"`
	Mode    string        `json:"mode"`  // as it went: precopy, postcopy, hybrid or stop
	Codec   string        `json:"codec"` // as asked for: auto, zstd or none

	Outcome  Phase       `json:"outcome"`
	Reason   string      `json:"reason"` // of an outcome other than done
	Began    time.Time   `json:"began"`
	Total    int64       `json:"totalNanoseconds"`
	Downtime int64       `json:"downtimeNanoseconds"` // the phases pause to start
	Phases   []PhaseTime `json:"phases"`              // they sum to Total

	// TargetLoad and TargetStart are what the target measured inside the phases load and start; the rest of those is
	// the way there and back.
	TargetLoad  int64 `json:"targetLoadNanoseconds"`
	TargetStart int64 `json:"targetStartNanoseconds"`

	Rounds []RoundReport `json:"rounds"`
	// Connections says what becomes of each that the sandbox had when it was planned, where not all are kept.
	Connections    []wire.Fate `json:"connections"`
	BundleBytes    uint64      `json:"bundleBytes"` // of files that were sent along
	StateBytes     uint64      `json:"stateBytes"`
	MetaBytes      uint64      `json:"metaBytes"`
	PagesCommitted uint64      `json:"pagesCommitted"`
	PagesResidual  uint64      `json:"pagesResidual"`  // sent during the stop
	PagesFetched   uint64      `json:"pagesFetched"`   // after the start
	PacketsQueued  uint64      `json:"packetsQueued"`  // by a shut gate, delivered afterwards
	PacketsDropped uint64      `json:"packetsDropped"` // since the queue was full
	WireBytes      uint64      `json:"wireBytes"`      // all of them
	Warnings       []string    `json:"warnings"`       // fallbacks that were taken, and the like
}

// SetTiming fills in everything that a Timing knows.
func (r *Report) SetTiming(t Timing) {
	r.Outcome, r.Reason, r.Began = t.Outcome, t.Reason, t.Began.UTC().Round(0)
	r.Phases = slices.Clone(t.Phases)
	r.Total, r.Downtime = t.Total().Nanoseconds(), t.Downtime().Nanoseconds()
}

// addAttempt accounts for an attempt before this one, which came to nothing: its times count as those of this one
// do.
func (r *Report) addAttempt(before Report) {
	var phases []PhaseTime
	for _, p := range workPhases {
		took, entered := int64(0), false
		for _, list := range [][]PhaseTime{before.Phases, r.Phases} {
			for _, one := range list {
				if one.Phase == p {
					took, entered = took+one.Nanoseconds, true
				}
			}
		}
		if entered {
			phases = append(phases, PhaseTime{Phase: p, Nanoseconds: took})
		}
	}
	r.Began, r.Phases = before.Began, phases
	r.Total += before.Total
	r.Downtime += before.Downtime
	r.WireBytes += before.WireBytes
}

// Check says whether a report agrees with itself: phases sum to the total and to the downtime, and all numbers are some.
func (r *Report) Check() error {
	if r.Version != ReportVersion {
		return fmt.Errorf("report has version %d, want %d", r.Version, ReportVersion)
	}
	if !r.Outcome.Final() {
		return fmt.Errorf("report of a migration in phase %q", r.Outcome)
	}
	for _, p := range r.Phases {
		if p.Nanoseconds < 0 || !slices.Contains(workPhases, p.Phase) {
			return fmt.Errorf("report has phase %q of %d ns", p.Phase, p.Nanoseconds)
		}
	}
	t := Timing{Phases: r.Phases}
	if total := t.Total().Nanoseconds(); total != r.Total {
		return fmt.Errorf("report's phases sum to %d ns, its total is %d ns", total, r.Total)
	}
	if down := t.Downtime().Nanoseconds(); down != r.Downtime {
		return fmt.Errorf("report's phases without running tasks sum to %d ns, its downtime is %d ns", down, r.Downtime)
	}
	if len(r.Rounds) > maxReportRounds {
		return fmt.Errorf("report has %d rounds (at most %d)", len(r.Rounds), maxReportRounds)
	}
	return nil
}

// WriteReport writes a report as indented JSON, after Check. Rates that are no numbers become 0: JSON has no other.
func WriteReport(w io.Writer, r Report) error {
	r.Version = ReportVersion
	if err := r.Check(); err != nil {
		return err
	}
	r.Rounds = slices.Clone(r.Rounds)
	for i := range r.Rounds {
		r.Rounds[i].DirtyBytesPerSecond = finite(r.Rounds[i].DirtyBytesPerSecond)
		r.Rounds[i].LinkBytesPerSecond = finite(r.Rounds[i].LinkBytesPerSecond)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// ReadReport reads what WriteReport wrote, by this or a newer program of the same version.
func ReadReport(rd io.Reader) (Report, error) {
	b, err := io.ReadAll(io.LimitReader(rd, maxReportBytes+1))
	if err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	if len(b) > maxReportBytes {
		return Report{}, fmt.Errorf("read report: more than %d bytes", maxReportBytes)
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	return r, r.Check()
}

func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}
