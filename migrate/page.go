package migrate

import (
	"html/template"
	"io"
	"time"
)

// The page's drawing, in pixels.
const (
	pageWidth  = 900.0
	roundSpace = 160.0
)

// bar is a part of a drawing.
type bar struct {
	X, Y, Width, Height float64
	Class, Title        string
}

// drawing is what the page's template gets.
type drawing struct {
	Report
	Timeline, Stop, Sent []bar
	Down                 string
	Whole                string
}

// WritePage writes a report as one HTML page that needs nothing else: a timeline of the phases, one of the stop
// alone, and what each round sent.
func WritePage(w io.Writer, r Report) error {
	d := drawing{Report: r, Down: shortDuration(time.Duration(r.Downtime)).String(), Whole: shortDuration(time.Duration(r.Total)).String()}
	var stop []PhaseTime
	for _, p := range r.Phases {
		if p.Phase.Down() {
			stop = append(stop, p)
		}
	}
	d.Timeline, d.Stop = timeline(r.Phases), timeline(stop)
	var most uint64
	for _, round := range r.Rounds {
		most = max(most, round.PagesSent)
	}
	for i, round := range r.Rounds {
		width := pageWidth / float64(len(r.Rounds))
		height := roundSpace * float64(round.PagesSent) / float64(max(most, 1))
		d.Sent = append(d.Sent, bar{
			X: float64(i) * width, Y: roundSpace - height, Width: max(width-2, 1), Height: height, Class: "rounds",
			Title: "round " + thousands(uint64(round.Number)) + ": " + thousands(round.PagesSent) + " pages, " +
				shortDuration(time.Duration(round.Nanoseconds)).String() + ", dirty " + bytesText(round.DirtyBytesPerSecond) + "/s, then " + round.Decision,
		})
	}
	return pageTemplate.Execute(w, d)
}

// timeline puts phases side by side, each as wide as it took long.
func timeline(phases []PhaseTime) []bar {
	total := Timing{Phases: phases}.Total()
	var bars []bar
	x := 0.0
	for _, p := range phases {
		width := pageWidth * float64(p.Nanoseconds) / float64(max(total, 1))
		bars = append(bars, bar{X: x, Width: width, Height: 40, Class: string(p.Phase),
			Title: string(p.Phase) + " " + shortDuration(time.Duration(p.Nanoseconds)).String()})
		x += width
	}
	return bars
}

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Migration of {{.Sandbox}}</title><style>
body{font:15px/1.5 sans-serif;margin:2em auto;max-width:940px;color:#222}
table{border-collapse:collapse}td,th{padding:2px 12px;text-align:right;border-bottom:1px solid #ddd}
svg{display:block;margin:.5em 0}rect{fill:#9ab}rect.rounds{fill:#7a9ecb}rect.pause,rect.state,rect.residual,rect.load,rect.start{fill:#d08c60}
rect:hover{opacity:.7}.pause{fill:#b5543c}.load{fill:#e0b070}.residual{fill:#c07848}.plan{fill:#bbb}</style></head><body>
<h1>Migration of {{.Sandbox}}</h1>
<p>To {{.Peer}} ({{.Address}}), {{.Began}}, mode {{.Mode}}: <b>{{.Outcome}}</b>{{with .Reason}} — {{.}}{{end}}.
The sandbox stood still for <b>{{.Down}}</b> of {{.Whole}}.</p>
<h2>All phases</h2><svg width="900" height="40">{{template "bars" .Timeline}}</svg>
<h2>The stop</h2><svg width="900" height="40">{{template "bars" .Stop}}</svg>
<table><tr><th>phase</th><th>nanoseconds</th></tr>{{range .Phases}}<tr><td>{{.Phase}}</td><td>{{.Nanoseconds}}</td></tr>{{end}}
<tr><td>total</td><td>{{.Total}}</td></tr></table>
{{if .Sent}}<h2>Pages sent in each round</h2><svg width="900" height="160">{{template "bars" .Sent}}</svg>
<table><tr><th>round</th><th>found by</th><th>scanned</th><th>sent</th><th>zero</th><th>bytes</th><th>dirty B/s</th><th>link B/s</th><th>throttled</th><th>then</th></tr>
{{range .Rounds}}<tr><td>{{.Number}}</td><td>{{.Tracker}}</td><td>{{.PagesScanned}}</td><td>{{.PagesSent}}</td><td>{{.PagesZero}}</td><td>{{.WireBytes}}</td>
<td>{{printf "%.0f" .DirtyBytesPerSecond}}</td><td>{{printf "%.0f" .LinkBytesPerSecond}}</td><td>{{.ThrottlePercent}} %</td><td>{{.Decision}} {{.Reason}}</td></tr>{{end}}</table>{{end}}
{{if .Warnings}}<h2>Notes</h2><ul>{{range .Warnings}}<li>{{.}}</li>{{end}}</ul>{{end}}
<p>{{.PagesCommitted}} pages, {{.PagesResidual}} of them sent in the stop; {{.StateBytes}} bytes of kernel state; {{.WireBytes}} bytes on the wire. Attempt {{.Attempt}}, epoch {{.Epoch}}.</p>
</body></html>
{{define "bars"}}{{range .}}<rect x="{{.X}}" y="{{.Y}}" width="{{.Width}}" height="{{.Height}}" class="{{.Class}}"><title>{{.Title}}</title></rect>{{end}}{{end}}`))
