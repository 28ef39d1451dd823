package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// A series is every sample of one workload on one runtime.
type series struct {
	Workload    string    `json:"workload"`
	Runtime     string    `json:"runtime"`
	Compression [2]string `json:"compression"`
	Samples     []sample  `json:"samples"`
}

// A quantity is one row of the table.
type quantity struct {
	name string
	of   func(sample) float64
	unit func(float64) string
	goal float64 // for the ratio to runsc, at most; 0: none is set
}

var quantities = []quantity{
	{"start to first output", func(s sample) float64 { return float64(s.Start) }, milliseconds, 0.5},
	{"checkpoint, uncompressed", func(s sample) float64 { return float64(s.Checkpoint[0]) }, milliseconds, 1},
	{"checkpoint, compressed", func(s sample) float64 { return float64(s.Checkpoint[1]) }, milliseconds, 0.35},
	{"the same until on disk, uncompressed", func(s sample) float64 { return float64(s.Durable[0]) }, milliseconds, 0},
	{"the same until on disk, compressed", func(s sample) float64 { return float64(s.Durable[1]) }, milliseconds, 0},
	{"left running, uncompressed", func(s sample) float64 { return float64(s.Running[0]) }, milliseconds, 0},
	{"left running, compressed", func(s sample) float64 { return float64(s.Running[1]) }, milliseconds, 0},
	{"its pause then, uncompressed", func(s sample) float64 { return float64(s.Pause[0]) }, milliseconds, 0},
	{"its pause then, compressed", func(s sample) float64 { return float64(s.Pause[1]) }, milliseconds, 0},
	{"restore to first response, uncompressed", func(s sample) float64 { return float64(s.Restore[0]) }, milliseconds, 0.65},
	{"restore to first response, compressed", func(s sample) float64 { return float64(s.Restore[1]) }, milliseconds, 0.65},
	{"image, uncompressed", func(s sample) float64 { return float64(s.ImageBytes[0]) }, mebibytes, 0},
	{"image, compressed", func(s sample) float64 { return float64(s.ImageBytes[1]) }, mebibytes, 1},
}

func milliseconds(v float64) string {
	return fmt.Sprintf("%.1f ms", v/float64(time.Millisecond))
}

func mebibytes(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }

// goalText is empty where no goal is set.
func (q quantity) goalText() string {
	if q.goal == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %.2f", q.goal)
}

// median of a quantity over a series, with its extremes.
func (q quantity) median(samples []sample) (middle, least, most float64) {
	var values []float64
	for _, s := range samples {
		values = append(values, q.of(s))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]
}

// printTable shows a workload's medians and extremes; with two runtimes, the ratio of the first to the second.
func printTable(w io.Writer, load workload, all []*series) {
	fmt.Fprintf(w, "\n%s", load.name)
	if load.sizeMiB > 0 {
		fmt.Fprintf(w, " %d MiB", load.sizeMiB)
	}
	fmt.Fprintf(w, ": medians of %d (least–most)\n", len(all[0].Samples))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\t")
	for _, s := range all {
		fmt.Fprintf(table, "%s (%s, %s)\t", s.Runtime, s.Compression[0], s.Compression[1])
	}
	if len(all) == 2 {
		fmt.Fprint(table, "ratio\tgoal\t")
	}
	fmt.Fprintln(table)
	for _, q := range quantities {
		fmt.Fprintf(table, "%s\t", q.name)
		var middles []float64
		for _, s := range all {
			middle, least, most := q.median(s.Samples)
			middles = append(middles, middle)
			fmt.Fprintf(table, "%s (%s–%s)\t", q.unit(middle), q.unit(least), q.unit(most))
		}
		if len(middles) == 2 && middles[1] > 0 {
			fmt.Fprintf(table, "%.2f\t%s\t", middles[0]/middles[1], q.goalText())
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}
