package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
	"github.com/sbxmigrate/sbxmigrate/e2e/redis"
)

// What is moved, and what is done to it meanwhile.
const (
	moveKeys       = 262144
	moveValueBytes = 4000
	moveWrites     = 1000 // a second
)

// moveGoal is a thirtieth.
const moveGoal = 1.0 / 30

const (
	gapQuantity     = "client's longest gap"
	gapOnlyQuantity = "the same, copying not counted"
	totalQuantity   = "commands, begin to end"
	statedQuantity  = "downtime as reported"
	copyQuantity    = "copying the image"
	lostQuantity    = "connections lost"
)

var moveSpecs = []spec{
	{name: gapQuantity, unit: "ms", goal: moveGoal},
	{name: gapOnlyQuantity, unit: "ms"},
	{name: totalQuantity, unit: "ms"},
	{name: statedQuantity, unit: "ms"},
	{name: copyQuantity, unit: "ms"},
	{name: lostQuantity},
}

// A mover has a redis on one of two hosts, and moves it to the other.
type mover interface {
	// move carries the redis to a machine that is plugged in and keeps quiet, and returns what the move says of itself.
	move(to *os.File) (map[string]float64, error)
	close()
}

// A mobile is a redis that can move, its address, and its place.
type mobile struct {
	side         string
	mac, address string
	mover        mover
	place        *os.File // the namespace that it is in
}

// move measures the move of one redis by each runtime in turn. Both are filled once and then moved there and back again.
func (s *stage) move(o options, peers []*runtime) (*result, error) {
	lab, client, err := newClient()
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	var sides []string
	var mobiles []*mobile
	for i, r := range peers {
		m, err := s.settle(lab, client, r, i)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		defer m.mover.close()
		sides, mobiles = append(sides, r.name), append(mobiles, m)
	}
	title := fmt.Sprintf("move of redis, %d keys of %d bytes, %d SET/s", moveKeys, moveValueBytes, moveWrites)
	out := newResult("move", title, sides, moveSpecs)
	for i := range o.runs {
		for _, m := range mobiles {
			values, err := m.measure(lab, client)
			if err != nil {
				return nil, fmt.Errorf("move by %s: %w", m.side, err)
			}
			fmt.Fprintf(os.Stderr, "move %s %d/%d: %v\n", m.side, i+1, o.runs, values)
			out.add(m.side, values)
		}
	}
	return out, nil
}

// settle starts a redis by a runtime and fills it.
func (s *stage) settle(lab *netlab.Lab, client *os.File, r *runtime, number int) (*mobile, error) {
	m := &mobile{side: r.name, mac: fmt.Sprintf("02:00:00:00:01:%02x", number), address: fmt.Sprintf("10.9.0.%d", 100+number)}
	// The client never has to ask where the server is: that takes seconds at times, and is not what is compared.
	if err := netlab.AddNeighbour(client, m.mac, m.address); err != nil {
		return nil, err
	}
	var err error
	if m.place, err = lab.Machine(m.mac, m.address+prefix, true); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, "move-"+r.name)
	var hosts [2]*host
	for i := range hosts {
		h, err := newHost(r.networked(), filepath.Join(dir, fmt.Sprintf("host-%d", i)))
		if err != nil {
			return nil, err
		}
		h.address = fmt.Sprintf("10.9.0.%d", 10+2*number+i)
		if h.ns, err = lab.Machine(fmt.Sprintf("02:00:00:00:02:%02x", 2*number+i), h.address+prefix, true); err != nil {
			return nil, err
		}
		hosts[i] = h
	}
	bundle := guest.Bundle{Args: redisServer, Root: s.rootfs}
	if r.name == oursName {
		m.mover, err = newLiveMigration(hosts, bundle, m.place)
	} else {
		m.mover, err = newStopAndCopy(hosts, bundle, m.place)
	}
	if err != nil {
		return nil, err
	}
	if err := m.fill(client); err != nil {
		m.mover.close()
		return nil, err
	}
	return m, nil
}

func (m *mobile) fill(client *os.File) error {
	c, err := m.dialUntil(client, time.Now().Add(responseLimit))
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Fill(moveKeys, moveValueBytes)
}

// dial opens a connection of the client to the redis. It gives up soon, since a packet to a machine that is not there is lost.
func (m *mobile) dial(client *os.File) (*redis.Client, error) {
	conn, err := netlab.Dial(client, m.address+":"+redisPort, 10*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return redis.NewClient(conn), nil
}

func (m *mobile) dialUntil(client *os.File, deadline time.Time) (*redis.Client, error) {
	for {
		c, err := m.dial(client)
		if err == nil || time.Now().After(deadline) {
			return c, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// measure makes one move under load.
func (m *mobile) measure(lab *netlab.Lab, client *os.File) (map[string]float64, error) {
	const steady = 500 // writes before the move, and after it
	there, err := lab.Machine(m.mac, m.address+prefix, false)
	if err != nil {
		return nil, err
	}
	c, err := m.dialUntil(client, time.Now().Add(responseLimit))
	if err != nil {
		return nil, err
	}
	w := redis.Write(c, redis.WriterOptions{PerSecond: moveWrites, Reopen: func() (*redis.Client, error) { return m.dial(client) }})
	if err := awaitWrites(w, steady); err != nil {
		return nil, err
	}
	values, err := m.mover.move(there)
	if err != nil {
		w.End()
		return nil, err
	}
	if err := awaitWrites(w, w.Acknowledged()+steady); err != nil {
		return nil, err
	}
	seen, err := w.End()
	if err != nil {
		return nil, err
	}
	if err := netlab.Unplug(m.place); err != nil {
		return nil, err
	}
	m.place = there
	values[gapQuantity], values[lostQuantity] = inMillis(seen.LongestGap), float64(seen.Lost)
	values[gapOnlyQuantity] = values[gapQuantity] - values[copyQuantity]
	return values, nil
}

// awaitWrites waits until so many writes have been acknowledged.
func awaitWrites(w *redis.Writer, n int64) error {
	for deadline := time.Now().Add(responseLimit); w.Acknowledged() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			seen, err := w.End()
			return fmt.Errorf("%d writes within %v, want %d: %w", seen.Acknowledged, responseLimit, n, err)
		}
	}
	return nil
}

func inMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
