package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// startMode measures nothing but starts: what images measures first, without the minutes that the rest takes.
const startMode = "start"

// startShare is how much of runsc's time a start may take.
const startShare = 0.5

// starts measures the start of every workload that was asked for.
func (s *stage) starts(o options, peers []*runtime) (*result, error) {
	var sides []string
	for _, r := range peers {
		sides = append(sides, r.name)
	}
	var specs []spec
	for _, w := range workloads {
		if listed(o.workloads, w.name) {
			specs = append(specs, spec{name: w.name, unit: "ms", goal: startShare})
		}
	}
	out := newResult(startMode, "start to first output", sides, specs)
	for _, w := range workloads {
		if !listed(o.workloads, w.name) {
			continue
		}
		for i := range o.runs + 1 {
			for _, r := range peers {
				took, err := s.start(r, w)
				if err != nil {
					return nil, fmt.Errorf("%s on %s: %w", w.name, r.name, err)
				}
				if i > 0 { // files are in the page cache from the second on
					out.add(r.name, map[string]float64{w.name: float64(took) / float64(time.Millisecond)})
				}
			}
		}
	}
	return out, nil
}

// start starts a workload once, says how long it takes until its first output, and ends it.
func (s *stage) start(r *runtime, w workload) (time.Duration, error) {
	dir, err := os.MkdirTemp(s.dir, r.name+"-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bundle := filepath.Join(dir, "bundle")
	if err := w.bundle(s.rootfs, s.programs).Write(bundle); err != nil {
		return 0, err
	}
	started := &sandbox{runtime: r, id: "bench-start", stateDir: filepath.Join(dir, "state")}
	defer started.delete()
	return started.start(bundle)
}

// start runs the bundle and returns when it has said its first word.
func (s *sandbox) start(bundle string) (time.Duration, error) {
	began := time.Now()
	out, err := s.launch("run", "--detach", "--bundle", bundle, s.id)
	if err != nil {
		return 0, err
	}
	defer out.close()
	first, err := out.await("start", began, readyLimit)
	if err != nil {
		return 0, err
	}
	return first.at.Sub(began), nil
}
