package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// A contender is one way to run a server.
type contender struct {
	side    string
	runtime *runtime
	flags   []string // of run
}

// race measures servers of all contenders in turn. Each run has new sandboxes, since much depends on how memory and threads happen to lie;
// those of one run live at the same time, and idle but for the one that is measured.
func (s *stage) race(out *result, contenders []contender, runs int, measure func(*server) (map[string]float64, error)) error {
	for run := range runs {
		if err := s.raceOnce(out, contenders, run, runs, measure); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) raceOnce(out *result, contenders []contender, run, runs int, measure func(*server) (map[string]float64, error)) error {
	lab, client, err := newClient()
	if err != nil {
		return err
	}
	defer lab.Close()
	var servers []*server
	for i, c := range contenders {
		h, err := newHost(c.runtime.networked(), filepath.Join(s.dir, fmt.Sprintf("%s-%d-%s", out.Mode, run, c.side)))
		if err != nil {
			return err
		}
		v, err := s.serve(lab, client, c.side, h, i, c.flags...)
		if err != nil {
			return fmt.Errorf("%s: %w", c.side, err)
		}
		defer v.close()
		servers = append(servers, v)
	}
	for i := range servers {
		v := servers[(i+run)%len(servers)] // who comes after whom must not matter
		values, err := measure(v)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", out.Mode, v.side, err)
		}
		fmt.Fprintf(os.Stderr, "%s %s %d/%d: %v\n", out.Mode, v.side, run+1, runs, values)
		out.add(v.side, values)
	}
	return nil
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
