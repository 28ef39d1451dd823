package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

const (
	streamTime = 1500 * time.Millisecond // of each throughput
	getCount   = 4000                    // of each latency
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

// network measures the network of a sandbox, from a client in another namespace. The sandboxes of all runtimes live at the same time, and idle
// but for the one that is measured.
func (s *stage) network(peers []*runtime, runs int) (*result, error) {
	lab, client, err := newClient()
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	var sides []string
	var servers []*server
	for i, r := range peers {
		h, err := newHost(r.networked(), filepath.Join(s.dir, "network-"+r.name))
		if err != nil {
			return nil, err
		}
		v, err := s.serve(lab, client, r.name, h, i)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		defer v.close()
		sides, servers = append(sides, r.name), append(servers, v)
	}
	out := newResult("network", "network of a sandbox, from another namespace", sides, networkSpecs)
	for i := range runs + 1 {
		for _, v := range servers {
			values, err := v.measureNetwork()
			if err != nil {
				return nil, fmt.Errorf("network of %s: %w", v.side, err)
			}
			if i == 0 {
				continue // buffers have not grown, and nothing is in a cache
			}
			fmt.Fprintf(os.Stderr, "network %s %d/%d: %v\n", v.side, i, runs, values)
			out.add(v.side, values)
		}
	}
	return out, nil
}

// newClient makes a lab with a client in it.
func newClient() (*netlab.Lab, *os.File, error) {
	lab, err := netlab.New()
	if err != nil {
		return nil, nil, err
	}
	client, err := lab.Machine("02:00:00:00:00:03", "10.9.0.3"+prefix, true)
	if err != nil {
		lab.Close()
		return nil, nil, err
	}
	return lab, client, nil
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
