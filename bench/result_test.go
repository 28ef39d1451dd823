package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var testSpecs = []spec{{name: "latency", unit: "µs", goal: 1.05}, {name: "rate", unit: "/s", goal: 0.95, least: true}, {name: "copying", unit: "ms"}}

func filled(values ...float64) *result {
	r := newResult("test", "a test", []string{"ours", "theirs"}, testSpecs)
	for _, v := range values {
		r.add("ours", map[string]float64{"latency": v, "rate": 2 * v})
		r.add("theirs", map[string]float64{"latency": 2 * v, "rate": v, "copying": 7})
	}
	return r
}

// What several runs wrote gives the table of all of them together.
func TestResultsMerge(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, r := range map[string]*result{"a": filled(1, 2), "b": filled(4)} {
		var b bytes.Buffer
		if err := r.write(&b); err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(files[len(files)-1], b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var printed strings.Builder
	if err := printFiles(&printed, files); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a test: medians (least–most) of 3",
		"|  | ours | theirs | ours / theirs | goal |",
		"| latency | 2 µs (1–4) | 4 µs (2–8) | 0.500 | ≤ 1.05 |",
		"| rate | 4 /s (2–8) | 2 /s (1–4) | 2.000 | ≥ 0.95 |",
		"| copying | – | 7 ms (7–7) | – |  |",
	} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("no %q in:\n%s", want, printed.String())
		}
	}
}

func TestForeignResultsAreRefused(t *testing.T) {
	other := filled(1)
	other.Quantities[0].Unit = "ms"
	fewer := filled(1)
	fewer.Quantities = fewer.Quantities[1:]
	sides := filled(1)
	sides.Sides = []string{"ours"}
	for name, r := range map[string]*result{"another unit": other, "fewer quantities": fewer, "other sides": sides} {
		if err := filled(1).merge(r); err == nil {
			t.Errorf("%s: merged", name)
		}
	}
	if _, err := mergeFrom(strings.NewReader(`[{"workload":"shell"}]`), nil); err == nil {
		t.Error("the results of images are taken for others")
	}
}

func TestBenchmarkRates(t *testing.T) {
	const printed = `"test","rps","avg_latency_ms","min_latency_ms"
"SET","8000.50","0.1","0.1"
"GET","9000.25","0.1","0.1"
`
	rates, err := benchmarkRates(printed)
	if err != nil || rates[benchmarkSetQuantity] != 8000.5 || rates[benchmarkGetQuantity] != 9000.25 {
		t.Errorf("rates are %v: %v", rates, err)
	}
	for _, text := range []string{"", "\"SET\",\"1\"\n", "\"SET\",\"x\"\n\"GET\",\"1\"\n", "\"SET"} {
		if rates, err := benchmarkRates(text); err == nil {
			t.Errorf("%q gives %v", text, rates)
		}
	}
}

func TestUnknownModeIsRefused(t *testing.T) {
	if err := checkModes("images,move,network,idle"); err != nil {
		t.Error(err)
	}
	for _, list := range []string{"", "moves", "idle,"} {
		if err := checkModes(list); err == nil {
			t.Errorf("-modes %q is taken", list)
		}
	}
}
