package main

import (
	"fmt"
	"slices"
	"time"
)

const (
	streamTime = 1500 * time.Millisecond // of each throughput
	getCount   = 4000                    // of each latency
	getWarmUp  = 500                     // go before, uncounted
	getBytes   = 100
)

const (
	intoQuantity  = "one TCP stream into the sandbox"
	outOfQuantity = "one TCP stream out of it"
	get50Quantity = "redis GET, p50"
	get99Quantity = "redis GET, p99"
)

// networkShare is how much of runsc's speed is enough.
const networkShare = 0.95

var networkSpecs = []spec{
	{name: intoQuantity, unit: "MiB/s", goal: networkShare, least: true},
	{name: outOfQuantity, unit: "MiB/s", goal: networkShare, least: true},
	{name: get50Quantity, unit: "µs", goal: 1 / networkShare},
	{name: get99Quantity, unit: "µs", goal: 1 / networkShare},
}

// network measures the network of a sandbox, from a client in another namespace.
func (s *stage) network(o options, peers []*runtime) (*result, error) {
	var sides []string
	var contenders []contender
	for _, r := range peers {
		sides, contenders = append(sides, r.name), append(contenders, contender{side: r.name, runtime: r})
	}
	out := newResult("network", "network of a sandbox, from another namespace", sides, networkSpecs)
	return out, s.race(out, contenders, o.runs, (*server).measureNetwork)
}

func (v *server) measureNetwork() (map[string]float64, error) {
	into, err := v.sendTo(streamTime)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	outOf, err := v.receiveFrom(streamTime)
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	if _, err := v.latencies(getWarmUp, 0, "GET"); err != nil {
		return nil, err
	}
	gets, err := v.latencies(getCount, 0, "GET")
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		intoQuantity: into / (1 << 20), outOfQuantity: outOf / (1 << 20),
		get50Quantity: inMicros(percentile(gets, 50)), get99Quantity: inMicros(percentile(gets, 99)),
	}, nil
}

// latencies asks redis so many times, one after the other, at most once in an interval, and returns how long each took, sorted. The command is
// GET or SET, of one of the keys that exist.
func (v *server) latencies(times int, interval time.Duration, command string) ([]time.Duration, error) {
	c, err := v.redis()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.Ask("SET", "one", string(make([]byte, getBytes))); err != nil {
		return nil, err
	}
	var all []time.Duration
	next := time.Now()
	for n := range times {
		words := []string{"GET", "one"}
		if command == "SET" {
			words = []string{"SET", fmt.Sprintf("key:%d", n*idleStride%idleKeys), string(make([]byte, idleValueBytes))}
		}
		began := time.Now()
		if _, err := c.Ask(words...); err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
		next = next.Add(interval)
		time.Sleep(time.Until(next))
	}
	slices.Sort(all)
	return all, nil
}

// percentile of sorted values.
func percentile(sorted []time.Duration, p int) time.Duration { return sorted[(len(sorted)-1)*p/100] }

func inMicros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
