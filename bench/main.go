package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// options are the command line.
type options struct {
	runs      int
	modes     string
	workloads string
	peers     string
	json      bool
	dir       string
	ours      string
	runsc     string
	before    string
	tables    bool
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 5, "runs of each workload on each runtime")
	flag.StringVar(&o.modes, "modes", "images,move,network,idle", "what to measure, comma-separated")
	flag.StringVar(&o.workloads, "workloads", "shell,python,redis", "which of images and start, comma-separated")
	flag.StringVar(&o.peers, "peers", "ours,runsc", "which, comma-separated")
	flag.BoolVar(&o.json, "json", false, "print every sample as JSON instead of the table")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where images go; about 6 GiB")
	flag.StringVar(&o.ours, "sbxmigrate", "", "binary to measure instead of building one")
	flag.StringVar(&o.runsc, "runsc", "", "the same for runsc")
	flag.StringVar(&o.before, "before", "", "another sbxmigrate, of before a change, to measure in turn with the others in start and images")
	flag.BoolVar(&o.tables, "tables", false, "measure nothing: print the tables of files that -json wrote for modes other than images, given as arguments")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options, files []string) error {
	if o.tables {
		return printFiles(os.Stdout, files)
	}
	if len(files) > 0 {
		return fmt.Errorf("arguments are for -tables, %q is not expected", files)
	}
	if err := checkModes(o.modes); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("needs root, since it starts sandboxes")
	}
	if o.runs < 1 {
		return fmt.Errorf("-runs must be at least 1")
	}
	s, err := newStage(o.dir)
	if err != nil {
		return err
	}
	defer s.close()
	// ctrl-C ends the runtimes too, which are in this process group; what is mounted and stored must go as well.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		s.close()
		os.Exit(130)
	}()

	peers, err := s.peers(o)
	if err != nil {
		return err
	}
	if listed(o.modes, imagesMode) {
		if err := s.images(o, peers); err != nil {
			return err
		}
	}
	return s.others(o, peers)
}

// images measures starts, checkpoints and restores.
func (s *stage) images(o options, peers []*runtime) error {
	var results []*series
	for _, w := range workloads {
		if !listed(o.workloads, w.name) {
			continue
		}
		measured, err := s.interleave(w, peers, o.runs)
		if err != nil {
			return err
		}
		results = append(results, measured...)
		if !o.json {
			printTable(os.Stdout, w, measured)
		}
	}
	if o.json {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(results)
	}
	return nil
}

func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == name {
			return true
		}
	}
	return false
}

// peers returns the runtimes that were asked for, built where no binary was given.
func (s *stage) peers(o options) ([]*runtime, error) {
	needed := (listed(o.peers, "ours") && o.ours == "") || (listed(o.peers, "runsc") && o.runsc == "")
	if needed {
		oursPath, runscPath, err := build(s.dir)
		if err != nil {
			return nil, err
		}
		if o.ours == "" {
			o.ours = oursPath
		}
		if o.runsc == "" {
			o.runsc = runscPath
		}
	}
	var peers []*runtime
	if listed(o.peers, "ours") {
		peers = append(peers, ours(o.ours))
	}
	if o.before != "" {
		before := ours(o.before)
		before.name = "before"
		peers = append(peers, before)
	}
	if listed(o.peers, "runsc") {
		peers = append(peers, runsc(o.runsc))
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("-peers names neither ours nor runsc")
	}
	return peers, nil
}

// interleave measures a workload in turn on each runtime. One run of each comes first and does not count.
func (s *stage) interleave(w workload, peers []*runtime, runs int) ([]*series, error) {
	var all []*series
	for _, r := range peers {
		all = append(all, &series{Workload: w.name, Runtime: r.name, Compression: r.compression})
	}
	for i := 0; i <= runs; i++ {
		for n, r := range peers {
			result, err := s.measure(r, w)
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", w.name, r.name, err)
			}
			if i == 0 && w.sizeMiB == 0 {
				continue // files are in the page cache now; a large workload's own run is warm-up enough
			}
			fmt.Fprintf(os.Stderr, "%s %s %d/%d: start %v, checkpoint %v, left running %v, pause %v, restore %v\n", w.name, r.name, len(all[n].Samples)+1, runs,
				result.Start, result.Checkpoint, result.Running, result.Pause, result.Restore)
			all[n].Samples = append(all[n].Samples, result)
		}
		if len(all[0].Samples) == runs {
			break
		}
	}
	return all, nil
}

// newStage makes the directory of all runs. The rootfs is the machine's own /, bound to a directory.
func newStage(dir string) (*stage, error) {
	dir, err := os.MkdirTemp(dir, "sbxmigrate-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir, rootfs: filepath.Join(dir, "rootfs"), programs: filepath.Join(dir, "programs")}
	if err := guest.WritePrograms(s.programs); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.rootfs, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("/", s.rootfs, "", syscall.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("bind / to %s: %w", s.rootfs, err)
	}
	return s, nil
}

// close removes everything, and never what is below the bound rootfs.
func (s *stage) close() {
	if err := syscall.Unmount(s.rootfs, syscall.MNT_DETACH); err != nil {
		fmt.Fprintf(os.Stderr, "bench: unmount %s: %v; left in place\n", s.rootfs, err)
		return
	}
	os.RemoveAll(s.dir)
}
