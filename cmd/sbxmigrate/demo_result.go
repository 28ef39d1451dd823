package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
)

// demoResult is what the demo shows. There is one only if everything was right.
type demoResult struct {
	Move *demoMove `json:"move"`
	// Keys is the number of keys that were equal on host B to what the client
	// knew, Digest that of their contents.
	Keys   int    `json:"keys"`
	Digest string `json:"digest"`
	// Answers is how many requests were answered rightly, all over one
	// connection; Errors is how many were not.
	Answers int64 `json:"answers"`
	Errors  int64 `json:"errors"`
	// LongestGapNanos is the longest time that the client waited for an answer.
	LongestGapNanos int64 `json:"longestGapNanos"`
}

// print shows the result to people.
func (r *demoResult) print(w io.Writer) error {
	var b strings.Builder
	note := ""
	if r.Move.Live != nil {
		r.Move.Live.print(&b)
	} else {
		r.Move.Image.print(&b)
		note = ", TCP's wait before it tries again included"
	}
	demoRow(&b, "longest gap", "%s between two answers%s", milliseconds(time.Duration(r.LongestGapNanos)), note)
	demoRow(&b, "requests", "%d answered over one connection, %d errors", r.Answers, r.Errors)
	demoRow(&b, "keys", "%d, digest of all equal on host B", r.Keys)
	b.WriteString("\nSUCCESS: the sandbox went from host A to host B, and its client's connection with it\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// demoRow is one line of the result.
func demoRow(b *strings.Builder, name, format string, args ...any) {
	fmt.Fprintf(b, "%-14s"+format+"\n", append([]any{name}, args...)...)
}

// timedPhases are the phases of an operation with their sum.
type timedPhases struct {
	Phases     checkpoint.Phases `json:"phases"`
	TotalNanos int64             `json:"totalNanos"`
}

func sumPhases(p checkpoint.Phases) timedPhases { return timedPhases{p, p.Total().Nanoseconds()} }

func (t timedPhases) print(b *strings.Builder, name string) {
	row := func(name string, nanos int64) {
		fmt.Fprintf(b, "  %-10s%12s\n", name, milliseconds(time.Duration(nanos)))
	}
	fmt.Fprintln(b, name)
	for _, phase := range t.Phases {
		row(phase.Name, phase.Nanos)
	}
	row("total", t.TotalNanos)
}
