package restoreenv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

const (
	// maxEnvironmentBytes bounds what Parse reads.
	maxEnvironmentBytes = 16 << 20
	// maxEntries bounds the mounts of a whole environment.
	maxEntries = 64 << 10
)

// Environment has the mounts of each container, by the container's name.
type Environment map[string]Sources

// Sources has the mounts of one container by filesystem, in compile order.
type Sources map[string][]Entry

// Entry is one mount of a container.
type Entry struct {
	Device      string       `json:"dev"`
	Destination string       `json:"destination"`
	Flags       mounts.Flags `json:"flags,omitzero"`
	Data        string       `json:"data,omitempty"`

	// IsFile says that what a gofer serves here is not a directory.
	IsFile bool `json:"isFile,omitempty"`
	// Overlay says that the sandbox has a writable layer of its own on top.
	Overlay bool `json:"overlay,omitempty"`
	// Recursive says that what the host has mounted below the source is served too.
	Recursive bool `json:"recursive,omitempty"`
	// Source is the host path of a bind from outside the bundle: the only kind
	// of path that is expected to be the same on another host.
	Source string `json:"source,omitempty"`
	// Fingerprint identifies the content that was served, if its owner asked for
	// it. See Fingerprint.
	Fingerprint string `json:"fingerprint,omitempty"`

	// hostPath is where this host has it; empty in what was read from an image.
	hostPath string
}

// Build returns the environment of one container's compiled mounts.
func Build(container string, list *mounts.List) Environment {
	sources := make(Sources)
	for _, m := range list.Mounts {
		entry := Entry{
			Device: m.Device, Destination: m.Destination, Flags: m.Flags, Data: m.Data,
			IsFile: m.SourceIsFile, Overlay: m.Overlay, Recursive: m.Recursive, hostPath: m.Source,
		}
		if m.SourceExternal {
			entry.Source = m.Source
		}
		sources[m.Filesystem] = append(sources[m.Filesystem], entry)
	}
	return Environment{container: sources}
}

// AddFingerprints sets the fingerprint of every gofer-served directory for which
// choose returns true, from this host's files. The environment must come from
// Build.
func (e Environment) AddFingerprints(choose func(destination string) bool) error {
	for _, container := range slices.Sorted(maps.Keys(e)) {
		served := e[container][mounts.FilesystemGofer]
		for i := range served {
			if !choose(served[i].Destination) {
				continue
			}
			print, err := Fingerprint(served[i].hostPath)
			if err != nil {
				return fmt.Errorf("identify content of mount %q: %w", served[i].Destination, err)
			}
			served[i].Fingerprint = print
		}
	}
	return nil
}

// Parse reads an environment from an image and checks it: a mount in it has one
// destination, and the device that belongs to it.
func Parse(data []byte) (Environment, error) {
	if len(data) > maxEnvironmentBytes {
		return nil, fmt.Errorf("restore environment has %d bytes, limit is %d", len(data), maxEnvironmentBytes)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var e Environment
	if err := decoder.Decode(&e); err != nil {
		return nil, fmt.Errorf("decode restore environment: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("decode restore environment: data after its end")
	}
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return e, nil
}

// Validate checks what Resolve relies on.
func (e Environment) Validate() error {
	n := 0
	for _, container := range slices.Sorted(maps.Keys(e)) {
		seen := make(map[string]bool)
		for _, filesystem := range slices.Sorted(maps.Keys(e[container])) {
			for _, entry := range e[container][filesystem] {
				if n++; n > maxEntries {
					return fmt.Errorf("restore environment has more than %d mounts", maxEntries)
				}
				if err := entry.validate(filesystem); err != nil {
					return fmt.Errorf("restore environment: container %q: mount %q: %w", container, entry.Destination, err)
				}
				if seen[entry.Destination] {
					return fmt.Errorf("restore environment: container %q has two mounts on %q", container, entry.Destination)
				}
				seen[entry.Destination] = true
			}
		}
	}
	return nil
}

func (e *Entry) validate(filesystem string) error {
	if !path.IsAbs(e.Destination) || path.Clean(e.Destination) != e.Destination {
		return fmt.Errorf("destination is not absolute and clean")
	}
	if want := mounts.DeviceName(filesystem, e.Destination); e.Device != want {
		return fmt.Errorf("device is %q, want %q", e.Device, want)
	}
	return nil
}
