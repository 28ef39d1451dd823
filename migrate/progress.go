package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// EventVersion is the version of Event's JSON. Fields are only ever added within a version.
const EventVersion = 1

// Event is how a migration stands at a moment: one line of --progress=json.
type Event struct {
	Version             int       `json:"version"`
	Time                time.Time `json:"time"`
	Sandbox             string    `json:"sandbox"`
	Phase               Phase     `json:"phase"`
	Round               int       `json:"round"`          // 0 outside rounds
	PagesRemaining      uint64    `json:"pagesRemaining"` // of this round, or to fetch
	PagesTotal          uint64    `json:"pagesTotal"`     // that this round, or the fetching, began with
	WireBytes           uint64    `json:"wireBytes"`      // so far, in all
	DirtyBytesPerSecond float64   `json:"dirtyBytesPerSecond"`
	LinkBytesPerSecond  float64   `json:"linkBytesPerSecond"`
	ThrottlePercent     int       `json:"throttlePercent"`
	PredictedDowntime   int64     `json:"predictedDowntimeNanoseconds"` // -1: not predictable
	ETA                 int64     `json:"etaNanoseconds"`               // to the end of this round or fetching; -1: not known
	Message             string    `json:"message"`                      // what was decided, or why it ended
}

// pageBytes is the size of a page.
const pageBytes = 4096

// NotKnown stands for a time that cannot be told.
const NotKnown = -1

// ETAOf returns how long pages take over a link, or NotKnown.
func ETAOf(pages uint64, linkBytesPerSecond float64) time.Duration {
	if pages == 0 {
		return 0
	}
	nanoseconds := float64(pages) * pageBytes / linkBytesPerSecond * float64(time.Second)
	if !(linkBytesPerSecond > 0) || math.IsInf(linkBytesPerSecond, 0) || nanoseconds >= math.MaxInt64 {
		return NotKnown
	}
	return time.Duration(nanoseconds)
}

// WriteEvent writes an event as one line of JSON, in one write.
func WriteEvent(w io.Writer, e Event) error {
	e.Version = EventVersion
	e.Time = e.Time.UTC().Round(time.Millisecond)
	e.DirtyBytesPerSecond, e.LinkBytesPerSecond = finite(e.DirtyBytesPerSecond), finite(e.LinkBytesPerSecond)
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write progress: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Line renders an event for a terminal, in at most width columns, without a line's end.
//
//	round 3: 1,024 pages left (4.0 MiB), dirty 12.0 MiB/s, link 110.5 MiB/s, downtime 45ms, eta 1s
func Line(e Event, width int) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if e.PagesTotal > 0 {
		add("%s pages left (%s)", thousands(e.PagesRemaining), bytesText(float64(e.PagesRemaining)*pageBytes))
	}
	if e.DirtyBytesPerSecond > 0 {
		add("dirty %s/s", bytesText(e.DirtyBytesPerSecond))
	}
	if e.LinkBytesPerSecond > 0 {
		add("link %s/s", bytesText(e.LinkBytesPerSecond))
	}
	if e.ThrottlePercent > 0 {
		add("throttled %d%%", e.ThrottlePercent)
	}
	if e.PredictedDowntime > 0 {
		add("downtime %v", shortDuration(time.Duration(e.PredictedDowntime)))
	}
	if e.PagesTotal > 0 && e.ETA >= 0 {
		add("eta %v", shortDuration(time.Duration(e.ETA)))
	}
	if e.Message != "" {
		add("%s", plain(e.Message))
	}
	head := string(e.Phase)
	if e.Phase == Rounds && e.Round > 0 {
		head = fmt.Sprintf("round %d", e.Round)
	}
	if len(parts) > 0 {
		head += ": " + strings.Join(parts, ", ")
	}
	return cut(head, width)
}

// bytesText writes bytes in binary units with one decimal.
func bytesText(n float64) string {
	if math.IsInf(n, 0) || math.IsNaN(n) {
		return "?"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

// thousands writes a number with commas.
func thousands(n uint64) string {
	digits := fmt.Sprint(n)
	var out []byte
	for i, c := range []byte(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out = append(out, ',')
		}
		out = append(out, c)
	}
	return string(out)
}

// shortDuration keeps two or three digits of what matters.
func shortDuration(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// plain takes out what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == utf8.RuneError {
			return ' '
		}
		return c
	}, s)
}

// cut shortens s to width columns. Wide characters count as one.
func cut(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}
