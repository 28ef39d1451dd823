package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Subcommand is the hidden first argument with which the binary re-executes
// itself as a sandbox process.
const Subcommand = spare.Subcommand

// RootContainer is the kernel's name for a sandbox's first container.
const RootContainer = "root"

// maxConfigBytes bounds the configuration read from the creating command: a
// spec with a megabyte of environment still fits.
const maxConfigBytes = 16 << 20

// Config is what a sandbox process is told by the command that creates it.
type Config struct {
	ID   string      `json:"id"` // for log lines; the guest never sees it
	Spec *specs.Spec `json:"spec"`

	Mounts  *mounts.List      `json:"mounts"`
	Network *network.Identity `json:"network"`

	Platform    string `json:"platform"`
	Tracking    string `json:"tracking,omitempty"` // TrackingOn and the like
	TotalMemory uint64 `json:"totalMemory"`        // bytes that the guest sees; 0: the host's
	Debug       bool   `json:"debug"`

	// StartCPU is where the process stays for the first togetherFor after its start, as its gofer does; nil: anywhere.
	StartCPU *int `json:"startCPU,omitempty"`

	// Restore makes the process load a saved kernel through Hooks.Load instead
	// of building one from Spec.
	Restore *RestoreConfig `json:"restore,omitempty"`

	// Files says how the descriptors after the configuration are to be read.
	Files FileLayout `json:"files"`
}

// RestoreConfig is what loading a saved kernel needs beyond Config.
type RestoreConfig struct {
	// Sessions are the host streams that the saved kernel still has. Those of execs
	// lead nowhere now, but for the Terminals, which names the exec sessions that
	// Files.Terminals are for, in their order.
	Sessions  []Session `json:"sessions"`
	Terminals []string  `json:"terminals,omitempty"`
	// Terminal is set on the new terminal before any task runs.
	Terminal *TerminalState `json:"terminal,omitempty"`
	// Charge has this process allocate memory for pages before others place them: its cgroup is not theirs.
	Charge bool `json:"charge,omitempty"`
	// Processes is about how many processes the saved kernel has.
	Processes int `json:"processes"`
	// Further are the containers that the saved kernel has besides the first.
	Further []FurtherContainer `json:"further,omitempty"`
	// Resets are connections that end with the restore, whose peers are told.
	Resets []network.Fate `json:"resets,omitempty"`
}

// FileLayout counts the descriptors that follow the configuration, in the
// order of the fields of Files.
type FileLayout struct {
	Stdio     int `json:"stdio"`     // 3, or 1 for a terminal
	Preserved int `json:"preserved"` // become 3, 4, … inside
	Gofer     int `json:"gofer"`     // in order of the gofer-served mounts
	Packet    int `json:"packet"`    // in order of Network.Links
	Load      int `json:"load"`      // for Hooks.Load
	Terminals int `json:"terminals"` // in order of RestoreConfig.Terminals
	Faults    int `json:"faults"`    // 1 where memory may come after the start
	Further   int `json:"further"`   // of RestoreConfig.Further, in its order
}

// Files are the descriptors that a sandbox process is handed. The process owns
// them all.
type Files struct {
	Log     *os.File // becomes its standard output and error
	Config  *os.File // Config as JSON, then end of file
	Ready   *os.File // receives one Report
	Exit    *os.File // receives one ExitRecord
	Control *os.File // listening control socket
	Memory  *os.File // memfd that holds all of the sandbox's memory

	Stdio     []*os.File
	Preserved []*os.File
	Gofer     []*os.File
	Packet    []*os.File
	Load      []*os.File
	Terminals []*os.File
	// Faults is at most one, the device that makes a trap for memory that comes
	// after the start, see package faults.
	Faults []*os.File
	// Further are, for each further container: where its exit record goes, its
	// standard streams, and the sockets of its gofer.
	Further []*os.File
}

// List returns the files in the order in which they are handed over.
func (f *Files) List() []*os.File {
	list := []*os.File{f.Log, f.Config, f.Ready, f.Exit, f.Control, f.Memory}
	for _, group := range [][]*os.File{f.Stdio, f.Preserved, f.Gofer, f.Packet, f.Load, f.Terminals, f.Faults, f.Further} {
		list = append(list, group...)
	}
	return list
}

// Layout returns the counts that let the child take List apart again.
func (f *Files) Layout() FileLayout {
	return FileLayout{len(f.Stdio), len(f.Preserved), len(f.Gofer), len(f.Packet), len(f.Load), len(f.Terminals), len(f.Faults), len(f.Further)}
}

// filesWithoutGroup is how many files come before the groups that FileLayout
// counts.
const filesWithoutGroup = 6

// sortFiles tells the files apart that the creating command has handed over, in
// the order of Files.List, and reads the configuration. Those that it returns
// with an error are there to report it.
func sortFiles(list []*os.File) (*Config, *Files, error) {
	if len(list) < filesWithoutGroup {
		return nil, &Files{}, fmt.Errorf("sandbox process was handed %d files, want at least %d", len(list), filesWithoutGroup)
	}
	files := &Files{Log: list[0], Config: list[1], Ready: list[2], Exit: list[3], Control: list[4], Memory: list[5]}
	cfg, err := ReadConfig(files.Config)
	if err != nil {
		return nil, files, err
	}
	list = list[filesWithoutGroup:]
	l := cfg.Files
	if want := l.Stdio + l.Preserved + l.Gofer + l.Packet + l.Load + l.Terminals + l.Faults + l.Further; len(list) != want {
		return nil, files, fmt.Errorf("sandbox process was handed %d files beside its own, configuration counts %d", len(list), want)
	}
	group := func(n int) []*os.File {
		files := list[:n:n]
		list = list[n:]
		return files
	}
	files.Stdio = group(l.Stdio)
	files.Preserved = group(l.Preserved)
	files.Gofer = group(l.Gofer)
	files.Packet = group(l.Packet)
	files.Load = group(l.Load)
	files.Terminals = group(l.Terminals)
	files.Faults = group(l.Faults)
	files.Further = group(l.Further)
	return cfg, files, nil
}

// maxFilesEach bounds each group of FileLayout.
const maxFilesEach = 4096

// ReadConfig reads one Config and checks what the rest of the package relies
// on.
func ReadConfig(r io.Reader) (*Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read sandbox configuration: %w", err)
	}
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("sandbox configuration is larger than %d bytes", maxConfigBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var cfg Config
	if err := dec.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("parse sandbox configuration: %w", err)
	}
	return &cfg, cfg.validate()
}

func (c *Config) validate() error {
	if c.Spec == nil || c.Spec.Process == nil || c.Mounts == nil || c.Network == nil {
		return errors.New("sandbox configuration lacks spec, process, mounts or network")
	}
	if err := CheckTracking(c.Tracking); err != nil {
		return err
	}
	l := c.Files
	for _, n := range []int{l.Stdio, l.Preserved, l.Gofer, l.Packet, l.Load, l.Terminals, l.Faults, l.Further} {
		if n < 0 || n > maxFilesEach {
			return fmt.Errorf("sandbox configuration counts %d descriptors in one group, limit is %d", n, maxFilesEach)
		}
	}
	wantStdio := 3
	if c.Spec.Process.Terminal {
		wantStdio = 1
	}
	if l.Stdio != wantStdio {
		return fmt.Errorf("sandbox configuration has %d standard streams, want %d", l.Stdio, wantStdio)
	}
	terminals := 0
	if c.Restore != nil {
		terminals = len(c.Restore.Terminals)
	}
	if l.Terminals != terminals {
		return fmt.Errorf("sandbox configuration has %d terminals for %d sessions", l.Terminals, terminals)
	}
	if l.Faults > 1 {
		return fmt.Errorf("sandbox configuration has %d devices for page faults, want one at most", l.Faults)
	}
	if n := len(c.Mounts.GoferMounts()); l.Gofer != n {
		return fmt.Errorf("sandbox configuration has %d gofer sockets for %d gofer-served mounts", l.Gofer, n)
	}
	further := 0
	if c.Restore != nil {
		for i := range c.Restore.Further {
			f := &c.Restore.Further[i]
			if f.Name == "" || f.Mounts == nil {
				return errors.New("sandbox configuration has a further container without name or mounts")
			}
			further += f.files()
		}
	}
	if l.Further != further {
		return fmt.Errorf("sandbox configuration has %d files for further containers, want %d", l.Further, further)
	}
	if l.Packet != len(c.Network.Links) {
		return fmt.Errorf("sandbox configuration has %d packet sockets for %d network links", l.Packet, len(c.Network.Links))
	}
	return nil
}

// Report is what a sandbox process says once on Files.Ready: that it is ready
// to be started, or why it is not.
type Report struct {
	Error string `json:"error,omitempty"`
	// Warnings name what the spec asks for and the sandbox does not have.
	Warnings []string `json:"warnings,omitempty"`
}

// ExitRecord is what a sandbox process leaves on Files.Exit when its container
// ended.
type ExitRecord struct {
	// Status is the exit status, or 128 plus the signal that ended it.
	Status int `json:"status"`
}
