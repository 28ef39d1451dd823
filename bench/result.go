package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A result is what one mode other than the checkpoints measured: for each quantity, every value on each side.
type result struct {
	Mode       string      `json:"mode"`
	Title      string      `json:"title"`
	Sides      []string    `json:"sides"` // ratios are to the last
	Quantities []*measured `json:"quantities"`
}

// A measured quantity. All values are in its unit.
type measured struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Goal is for the ratio of each side to the last: at most, or with Least at least. 0: none is set.
	Goal  float64 `json:"goal,omitempty"`
	Least bool    `json:"least,omitempty"`
	// Values by side; a side has none where it has no such quantity.
	Values map[string][]float64 `json:"values"`
}

// A spec describes a quantity before anything is measured.
type spec struct {
	name, unit string
	goal       float64
	least      bool
}

// newResult returns a result without values.
func newResult(mode, title string, sides []string, specs []spec) *result {
	r := &result{Mode: mode, Title: title, Sides: sides}
	for _, s := range specs {
		r.Quantities = append(r.Quantities, &measured{Name: s.name, Unit: s.unit, Goal: s.goal, Least: s.least, Values: map[string][]float64{}})
	}
	return r
}

// add takes in one run of a side: a value for each quantity that it has.
func (r *result) add(side string, values map[string]float64) {
	for _, q := range r.Quantities {
		if v, ok := values[q.Name]; ok {
			q.Values[side] = append(q.Values[side], v)
		}
	}
}

// merge adds the values of another run of the same mode.
func (r *result) merge(other *result) error {
	if r.Title != other.Title || !slices.Equal(r.Sides, other.Sides) || len(r.Quantities) != len(other.Quantities) {
		return fmt.Errorf("%q and %q are not the same measurement", r.Title, other.Title)
	}
	for i, q := range r.Quantities {
		if q.Name != other.Quantities[i].Name || q.Unit != other.Quantities[i].Unit {
			return fmt.Errorf("%s: %q and %q are not the same quantity", r.Title, q.Name, other.Quantities[i].Name)
		}
		for side, values := range other.Quantities[i].Values {
			q.Values[side] = append(q.Values[side], values...)
		}
	}
	return nil
}

// write prints a result as JSON, for readResults.
func (r *result) write(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// readResults reads what several runs wrote, and merges what belongs together.
func readResults(files []string) ([]*result, error) {
	var all []*result
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		all, err = mergeFrom(f, all)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	return all, nil
}

func mergeFrom(r io.Reader, all []*result) ([]*result, error) {
	for decoder := json.NewDecoder(r); ; {
		next := &result{}
		if err := decoder.Decode(next); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("want what -json printed for the modes that have no images: %w", err)
		}
		i := slices.IndexFunc(all, func(r *result) bool { return r.Mode == next.Mode && r.Title == next.Title })
		if i < 0 {
			all = append(all, next)
		} else if err := all[i].merge(next); err != nil {
			return nil, err
		}
	}
}

// print shows medians and extremes, and the ratio of each side to the last.
func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: medians (least–most) of %d\n\n", r.Title, r.runs())
	base := r.Sides[len(r.Sides)-1]
	header := append([]string{""}, r.Sides...)
	for _, side := range r.Sides[:len(r.Sides)-1] {
		header = append(header, side+" / "+base)
	}
	printRow(w, append(header, "goal"))
	printRow(w, slices.Repeat([]string{"---"}, len(header)+1))
	for _, q := range r.Quantities {
		row := []string{q.Name}
		for _, side := range r.Sides {
			row = append(row, q.text(side))
		}
		for _, side := range r.Sides[:len(r.Sides)-1] {
			row = append(row, q.ratioText(side, base))
		}
		printRow(w, append(row, q.goalText()))
	}
}

// printRow prints a row of a Markdown table, so that it can be put into the documentation as it is.
func printRow(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }

// runs is how often what was measured most was.
func (r *result) runs() (most int) {
	for _, q := range r.Quantities {
		for _, values := range q.Values {
			most = max(most, len(values))
		}
	}
	return most
}

func (q *measured) text(side string) string {
	if len(q.Values[side]) == 0 {
		return "–"
	}
	middle, least, most := spread(q.Values[side])
	with := strings.TrimSpace(short(middle) + " " + q.Unit)
	return fmt.Sprintf("%s (%s–%s)", with, short(least), short(most))
}

func (q *measured) ratioText(side, base string) string {
	if len(q.Values[side]) == 0 || len(q.Values[base]) == 0 {
		return "–"
	}
	above, _, _ := spread(q.Values[side])
	below, _, _ := spread(q.Values[base])
	if below == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", above/below)
}

func (q *measured) goalText() string {
	switch {
	case q.Goal == 0:
		return ""
	case q.Least:
		return fmt.Sprintf("≥ %.3g", q.Goal)
	}
	return fmt.Sprintf("≤ %.3g", q.Goal)
}

// spread returns the median and the extremes.
func spread(values []float64) (middle, least, most float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[0], sorted[n-1]
}

// short prints three significant digits, and all in front of the point.
func short(v float64) string {
	switch {
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
