package gofer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Subcommand is the hidden first argument with which this program is run again
// as a gofer. The program must answer it by calling Main before anything else.
const Subcommand = spare.GoferSubcommand

const (
	// maxMounts bounds how many mounts one gofer serves.
	maxMounts = 1024
	// maxConfigBytes bounds the configuration that a gofer process reads;
	// maxMounts of them fit.
	maxConfigBytes = 128 << 10
	// maxStatusBytes bounds what Ready reads from a gofer process.
	maxStatusBytes = 4 << 10
	// maxIDMappings is the kernel's own limit on the lines of a uid_map.
	maxIDMappings = 340
)

// Mount is one tree or file to serve.
type Mount struct {
	// Source is the absolute path on the host of a directory, or of a file that
	// is not a device. Symlinks in it are followed once, by Start.
	Source string

	// ReadOnly makes the host and the server refuse every write.
	ReadOnly bool

	// Recursive also serves what the host has mounted below Source at the time
	// of Start, as rbind does. ReadOnly reaches these mounts too.
	Recursive bool

	// DirectFS gives the sandbox a descriptor of the mount itself, below which
	// it opens files without asking the gofer. Only the host's mount flags
	// protect the files then, so it needs ReadOnly. The descriptor's ".." leads
	// to the gofer's own root: a sandbox process that is taken over can reach the
	// other mounts of the same gofer without the server's checks, but each still
	// under its own mount flags. Off by default.
	DirectFS bool
}

// Config says what one gofer serves. Each source is opened once,
// so what is served is what Start found there.
type Config struct {
	// Mounts are served in this order, at least one.
	Mounts []Mount

	// UIDMappings and GIDMappings are those of the container's user namespace;
	// both or none. With them the gofer runs in a user namespace of its own with
	// the same mappings, so that owners look to it as they do in the container,
	// and its capabilities end at the mapped IDs. Each must map ID 0. Empty means
	// the caller's user namespace.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// UserNamespacePath is the container's user namespace where it exists
	// already (/proc/PID/ns/user, or a file bound to one that still has a
	// process). The gofer does not join it but takes over its mappings, which is
	// the same for files, and keeps the gofer away from its other processes. It is
	// not looked at where mappings are given.
	UserNamespacePath string

	// StartCPU is where the gofer stays for the first togetherFor, beside the sandbox that it serves; nil: anywhere.
	StartCPU *int

	// LogFile receives the gofer's warnings, at most maxLogBytes of them, and the
	// trace of a crash. The caller keeps its ownership and may close it after
	// Start. Nil means the null device.
	LogFile *os.File
}

// validate names the first thing that cannot be served as it is asked for.
func (c *Config) validate() error {
	if len(c.Mounts) == 0 {
		return errors.New("no mounts to serve")
	}
	if len(c.Mounts) > maxMounts {
		return fmt.Errorf("%d mounts are more than one gofer serves (%d)", len(c.Mounts), maxMounts)
	}
	for i, m := range c.Mounts {
		if !filepath.IsAbs(m.Source) {
			return fmt.Errorf("mount %d: source %q is not an absolute path", i, m.Source)
		}
		if m.DirectFS && !m.ReadOnly {
			return fmt.Errorf("mount %d: direct access to %q needs it to be read-only", i, m.Source)
		}
	}
	return nil
}

// childConfig is what a gofer process is told, as JSON. The order of Mounts is
// that of the descriptors.
type childConfig struct {
	Mounts   []childMount `json:"mounts"`
	StartCPU *int         `json:"startCPU,omitempty"`
}

// childMount is one served mount as the gofer process knows it: no path.
type childMount struct {
	Directory bool `json:"directory,omitempty"`
	ReadOnly  bool `json:"readOnly,omitempty"`
	DirectFS  bool `json:"directFS,omitempty"`
}

// mountPath is where the i-th mount stands in the gofer's tree.
func mountPath(i int) string {
	return fmt.Sprintf("/%d", i)
}

// readOnly says whether nothing at all may be written through this gofer.
func (c *childConfig) readOnly() bool {
	for _, m := range c.Mounts {
		if !m.ReadOnly {
			return false
		}
	}
	return true
}

// readChildConfig reads and checks one configuration.
func readChildConfig(r io.Reader) (*childConfig, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read gofer configuration: %w", err)
	}
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("gofer configuration is longer than %d bytes", maxConfigBytes)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var c childConfig
	if err := decoder.Decode(&c); err != nil {
		return nil, fmt.Errorf("decode gofer configuration: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("gofer configuration goes on after its end")
	}
	if n := len(c.Mounts); n == 0 || n > maxMounts {
		return nil, fmt.Errorf("gofer configuration has %d mounts, not 1 to %d", n, maxMounts)
	}
	for i, m := range c.Mounts {
		if m.DirectFS && !m.ReadOnly {
			return nil, fmt.Errorf("gofer configuration: mount %d is direct and writable", i)
		}
	}
	return &c, nil
}
