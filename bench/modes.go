package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// imagesMode starts, checkpoints and restores. It is printed in its own way.
const imagesMode = "images"

// oursName is the name of our runtime.
const oursName = "sbxmigrate"

// A mode is one of the other measurements.
type mode struct {
	name    string
	measure func(s *stage, o options, peers []*runtime) (*result, error)
}

var modes = []mode{
	{startMode, (*stage).starts},
	{"move", (*stage).move},
	{"network", (*stage).network},
	{"idle", (*stage).idle},
}

func checkModes(list string) error {
	known := []string{imagesMode}
	for _, m := range modes {
		known = append(known, m.name)
	}
	for name := range strings.SplitSeq(list, ",") {
		if !listed(strings.Join(known, ","), name) {
			return fmt.Errorf("-modes has %q, want some of %s", name, strings.Join(known, ","))
		}
	}
	return nil
}

// others measures every mode that was asked for, but images.
func (s *stage) others(o options, peers []*runtime) error {
	for _, m := range modes {
		if !listed(o.modes, m.name) {
			continue
		}
		r, err := m.measure(s, o, peers)
		if err != nil {
			return err
		}
		if !o.json {
			r.print(os.Stdout)
		} else if err := r.write(os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

// printFiles prints the tables of what several runs measured together.
func printFiles(w io.Writer, files []string) error {
	results, err := readResults(files)
	for _, r := range results {
		r.print(w)
	}
	return err
}
