package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// What the sandboxes of this mode do.
const (
	idleKeys       = 8192
	idleValueBytes = 4000
	idleStride     = 7919 // a prime: keys are written in no order

	benchmarkRequests = 6000
	benchmarkClients  = 20
	pacedWrites       = 500 // one each millisecond
	forks             = 50
	maps              = 3000
)

const (
	benchmarkSetQuantity = "redis-benchmark SET"
	benchmarkGetQuantity = "redis-benchmark GET"
	paced50Quantity      = "SET at 1,000 a second, p50"
	paced99Quantity      = "SET at 1,000 a second, p99"
	forkQuantity         = "fork, exec, wait"
	mapQuantity          = "map, write and unmap 64 KiB"
)

// idleCost is what tracking may cost while nothing is tracked.
const idleCost = 0.03

var idleSpecs = []spec{
	{name: benchmarkSetQuantity, unit: "/s", goal: 1 - idleCost, least: true},
	{name: benchmarkGetQuantity, unit: "/s", goal: 1 - idleCost, least: true},
	{name: paced50Quantity, unit: "µs", goal: 1 + idleCost},
	{name: paced99Quantity, unit: "µs"},
	{name: forkQuantity, unit: "µs", goal: 1 + idleCost},
	{name: mapQuantity, unit: "µs", goal: 1 + idleCost},
}

// The sides of this mode: a sandbox while a migration tracks it, one as they always are, and one without the tracker.
var idleSides = []struct{ name, tracking string }{{"tracked", "always"}, {"idle", "on"}, {"without", "off"}}

// idle measures what tracking costs.
func (s *stage) idle(o options, peers []*runtime) (*result, error) {
	if peers[0].name != oursName {
		return nil, errors.New("idle measures sbxmigrate alone: -peers must have ours")
	}
	var sides []string
	var contenders []contender
	for _, side := range idleSides {
		sides = append(sides, side.name)
		contenders = append(contenders, contender{side.name, peers[0], []string{"--tracking", side.tracking}})
	}
	out := newResult("idle", "cost of tracking, to a sandbox without the tracker", sides, idleSpecs)
	return out, s.race(out, contenders, o.runs, (*server).measureIdle)
}

func (v *server) measureIdle() (map[string]float64, error) {
	if err := v.fill(); err != nil {
		return nil, err
	}
	values, err := v.redisBenchmark()
	if err != nil {
		return nil, err
	}
	paced, err := v.latencies(pacedWrites, time.Millisecond, "SET")
	if err != nil {
		return nil, err
	}
	values[paced50Quantity], values[paced99Quantity] = inMicros(percentile(paced, 50)), inMicros(percentile(paced, 99))
	for _, w := range []struct {
		quantity, what string
		times          int
	}{{forkQuantity, "fork", forks}, {mapQuantity, "mmap", maps}} {
		each, err := v.batches(w.what, w.times)
		if err != nil {
			return nil, err
		}
		values[w.quantity] = inMicros(each)
	}
	return values, nil
}

// workBatches is how often the work of one run is timed: what disturbs the machine for a moment disturbs one of them.
const workBatches = 10

// batches has the program do something so many times in all, and returns how long it takes in the median batch.
func (v *server) batches(what string, times int) (time.Duration, error) {
	var took []time.Duration
	for range workBatches {
		each, err := v.work(what, times/workBatches)
		if err != nil {
			return 0, err
		}
		took = append(took, each)
	}
	slices.Sort(took)
	return percentile(took, 50), nil
}

// fill gives redis memory to write to.
func (v *server) fill() error {
	c, err := v.redis()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Fill(idleKeys, idleValueBytes)
}

// redisBenchmark runs Debian's program of that name in the client's namespace.
func (v *server) redisBenchmark() (map[string]float64, error) {
	cmd := exec.Command("/usr/bin/redis-benchmark", "-h", v.address, "-p", redisPort, "-t", "set,get", "-n", fmt.Sprint(benchmarkRequests),
		"-c", fmt.Sprint(benchmarkClients), "-d", fmt.Sprint(getBytes), "-r", fmt.Sprint(idleKeys), "--csv")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := netlab.Start(v.client, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("redis-benchmark: %w: %s", err, stderr.String())
	}
	return benchmarkRates(stdout.String())
}

// benchmarkRates reads redis-benchmark's table: a heading, then a test and its requests a second on each line.
func benchmarkRates(text string) (map[string]float64, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("redis-benchmark printed %q: %w", text, err)
	}
	quantities := map[string]string{"SET": benchmarkSetQuantity, "GET": benchmarkGetQuantity}
	values := map[string]float64{}
	for _, row := range rows {
		if quantity := quantities[row[0]]; quantity != "" && len(row) > 1 {
			if values[quantity], err = strconv.ParseFloat(row[1], 64); err != nil {
				return nil, fmt.Errorf("redis-benchmark printed %q: %w", text, err)
			}
		}
	}
	if len(values) != len(quantities) {
		return nil, errors.New("redis-benchmark printed no SET or no GET: " + text)
	}
	return values, nil
}
