package image

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// SchemaVersion is the version of the format that this package writes and reads. See docs/image-format.md.
const SchemaVersion = 1

// Config says what a checkpoint is of and what restoring it takes. It is the config blob of an image's manifest. The JSON
// values belong to other packages: this one carries them in compact form and bounds their size, nothing more.
type Config struct {
	Schema int       `json:"schema"` // set by Commit
	Build  string    `json:"build"`  // of the program that saved; the same one must restore
	GVisor string    `json:"gvisor"` // version of the gVisor module
	Arch   string    `json:"arch"`   // GOARCH
	CPU    CPU       `json:"cpu"`
	Time   time.Time `json:"created"` // UTC

	SandboxID string `json:"sandboxId"`
	Hostname  string `json:"hostname"`

	Containers  []Container     `json:"containers"`
	Mounts      json.RawMessage `json:"mounts,omitempty"`             // the compiled mounts of the first container
	Environment json.RawMessage `json:"restoreEnvironment,omitempty"` // what backed each file system
	Network     json.RawMessage `json:"network,omitempty"`            // the network identity
	Connections json.RawMessage `json:"connections,omitempty"`        // the TCP and UDP sockets, as they stopped
	Processes   json.RawMessage `json:"processes,omitempty"`          // for people who inspect the image
	Streams     json.RawMessage `json:"streams,omitempty"`            // host streams that the kernel holds: stdio, terminals

	Memory []MemoryFile `json:"memory"`           // by rising ID; every file that has pages
	States []State      `json:"states"`           // set by Commit
	Parent string       `json:"parent,omitempty"` // set by Commit: digest of the manifest whose packs are used; may be gone

	// LeftRunning says that the sandbox went on after the save: what is made of the image is a second copy.
	LeftRunning bool `json:"leftRunning,omitempty"`

	// Decisions records what was chosen when the sandbox was set up and must be chosen again, such as the medium of /tmp.
	Decisions map[string]string `json:"decisions,omitempty"`
}

// CPU is what the saved state took for granted of the CPU.
type CPU struct {
	Features       []string `json:"features"` // by name, sorted
	CacheLineBytes uint32   `json:"cacheLineBytes"`
	XSAVEBytes     uint32   `json:"xsaveBytes"`    // size of the extended state
	XSAVEFeatures  uint64   `json:"xsaveFeatures"` // bits of its components (XCR0)
	MXCSRMask      uint32   `json:"mxcsrMask"`
}

// A Container is one of the sandbox, with the OCI spec that it was started from. The first is the one that the sandbox was
// made for: it has the sandbox's ID, and its mounts are Config.Mounts.
type Container struct {
	Name   string          `json:"name"`
	ID     string          `json:"id,omitempty"`
	Spec   json.RawMessage `json:"spec"`
	Mounts json.RawMessage `json:"mounts,omitempty"`
}

// A MemoryFile is one that pages belong to.
type MemoryFile struct {
	ID        FileID `json:"id"`
	Name      string `json:"name,omitempty"` // the sandbox's name for it
	SizeBytes uint64 `json:"sizeBytes"`      // a multiple of PageBytes
}

// A State is a state stream.
type State struct {
	Kind     string `json:"kind"`
	RawBytes uint64 `json:"rawBytes"` // decompressed
}

// encode returns the one form of c that decodeConfig accepts.
func (c *Config) encode() ([]byte, error) {
	c.Schema = SchemaVersion
	c.Time = c.Time.UTC().Round(0)
	c.Containers, c.Memory, c.States = notNil(c.Containers), notNil(c.Memory), notNil(c.States)
	c.CPU.Features = notNil(c.CPU.Features)
	data, err := json.Marshal(c)
	if err != nil {
		return nil, &Error{Code: CodeConfig, Blob: "config", Err: err}
	}
	if len(data) > MaxConfigBytes {
		return nil, failf(CodeTooLarge, "config", "has %d bytes, more than %d", len(data), MaxConfigBytes)
	}
	// What can be written must be readable.
	if _, err := decodeConfig("config", data); err != nil {
		return nil, failf(CodeConfig, "", "%v", err)
	}
	return data, nil
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// decodeConfig reads a config that encode wrote. The schema is looked at first, so that a future format is reported as
// such and not as damage.
func decodeConfig(blob string, data []byte) (*Config, error) {
	if len(data) > MaxConfigBytes {
		return nil, failf(CodeDamaged, blob, "has %d bytes, more than %d", len(data), MaxConfigBytes)
	}
	var version struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: blob, Err: err}
	}
	if version.Schema == nil {
		return nil, failf(CodeDamaged, blob, "has no schema version")
	}
	if *version.Schema != SchemaVersion {
		return nil, failf(CodeSchema, blob, "written in schema %d, this version reads %d", *version.Schema, SchemaVersion)
	}
	var c Config
	if err := decodeCanonical(data, &c); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: blob, Err: err}
	}
	if err := c.validate(); err != nil {
		return nil, &Error{Code: CodeDamaged, Blob: blob, Err: err}
	}
	return &c, nil
}

// decodeCanonical accepts only what json.Marshal writes for the value: no unknown, repeated or differently spelt keys, no
// white space, nothing behind it.
func decodeCanonical(data []byte, value any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	again, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("is not in the form that it is written in")
	}
	return nil
}

func (c *Config) validate() error {
	if c.Build == "" || c.GVisor == "" || c.Arch == "" {
		return fmt.Errorf("build, gvisor or arch is empty")
	}
	if len(c.Containers) > MaxContainers {
		return fmt.Errorf("%d containers, more than %d", len(c.Containers), MaxContainers)
	}
	texts := append([]string{c.Build, c.GVisor, c.Arch, c.SandboxID, c.Hostname}, c.CPU.Features...)
	for _, container := range c.Containers {
		texts = append(texts, container.Name, container.ID)
		if len(container.Spec) == 0 {
			return fmt.Errorf("container %q has no spec", container.Name)
		}
	}
	for key, value := range c.Decisions {
		texts = append(texts, key, value)
	}
	for _, text := range texts {
		if len(text) > MaxTextBytes {
			return fmt.Errorf("a string of %d bytes, more than %d", len(text), MaxTextBytes)
		}
	}
	if !slices.IsSorted(c.CPU.Features) {
		return fmt.Errorf("CPU features are not sorted")
	}
	if c.Parent != "" && digest.Digest(c.Parent).Validate() != nil {
		return fmt.Errorf("parent %q is no digest", c.Parent)
	}
	return c.validateStreams()
}

func (c *Config) validateStreams() error {
	if len(c.Memory) > MaxFiles {
		return fmt.Errorf("%d memory files, more than %d", len(c.Memory), MaxFiles)
	}
	for i, file := range c.Memory {
		if i > 0 && c.Memory[i-1].ID >= file.ID {
			return fmt.Errorf("memory files are not in the order of their ids")
		}
		if file.SizeBytes%PageBytes != 0 || file.SizeBytes/PageBytes > MaxFilePages || len(file.Name) > MaxTextBytes {
			return fmt.Errorf("memory file %d has an impossible size or name", file.ID)
		}
	}
	if len(c.States) > MaxStates {
		return fmt.Errorf("%d state streams, more than %d", len(c.States), MaxStates)
	}
	seen := map[string]bool{}
	for _, state := range c.States {
		if !kindPattern.MatchString(state.Kind) || seen[state.Kind] || state.RawBytes > MaxStateBytes {
			return fmt.Errorf("state %q is misnamed, repeated or too large", strings.ToValidUTF8(state.Kind, "?"))
		}
		seen[state.Kind] = true
	}
	return nil
}

// memoryPages returns the size of a memory file in pages, 0 if there is none of that id.
func (c *Config) memoryPages(id FileID) uint64 {
	at, found := slices.BinarySearchFunc(c.Memory, id, func(f MemoryFile, id FileID) int { return cmp.Compare(f.ID, id) })
	if !found {
		return 0
	}
	return c.Memory[at].SizeBytes / PageBytes
}
