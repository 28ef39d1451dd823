package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/cgroup"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// DefaultRoot is where state directories are kept unless --root says
// otherwise.
const DefaultRoot = "/run/sbxmigrate"

// Root is the directory that holds the state directories of this host's
// sandboxes. Two hosts on one machine have two.
type Root string

// The files of a state directory.
const (
	recordName = "state.json"
	specName   = "config.json"
	exitName   = "exit.json"
	logName    = "sandbox.log"
	lockName   = "lock"
)

// maxRecordBytes bounds what is read of a state directory's files.
const maxRecordBytes = 64 << 20

// Record is what a state directory says about its sandbox.
type Record struct {
	ID     string `json:"id"`
	Bundle string `json:"bundle"`
	// OwnsBundle says that the bundle's directory goes with the sandbox.
	OwnsBundle  bool              `json:"ownsBundle,omitempty"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Terminal    bool              `json:"terminal"`
	Platform    string            `json:"platform"`

	// SandboxID is the ID of the sandbox that a further container is in, empty for
	// the first container of one, which has the sandbox's own ID. Name is what the
	// sandbox's kernel calls it, and StandIn the process that stands for it here.
	SandboxID string  `json:"sandboxId,omitempty"`
	Name      string  `json:"name,omitempty"`
	StandIn   Process `json:"standIn,omitzero"`

	// Creating says that the sandbox is not ready yet: the command that creates
	// it is at work, or was ended before it could clean up.
	Creating bool `json:"creating,omitempty"`
	// Maker is the process that restores a further container, from before its sandbox process exists.
	Maker Process `json:"maker,omitzero"`

	// Sandbox is the sandbox process, that of all of its containers.
	Sandbox Process `json:"sandbox"`
	Gofer   Process `json:"gofer"`

	Mounts  *mounts.List      `json:"mounts"`
	Network *network.Identity `json:"network"`
	// NetworkNamespace is the path of the namespace whose addresses were taken
	// over, empty for loopback only.
	NetworkNamespace string `json:"networkNamespace,omitempty"`
	// NetworkUndo gives the addresses back when the sandbox is deleted.
	NetworkUndo *network.Undo `json:"networkUndo,omitempty"`
	CgroupPath  string        `json:"cgroupPath,omitempty"`
	// Cgroup also says which of its directories were made for the sandbox, and are to be removed with it.
	Cgroup *cgroup.CgroupJSON `json:"cgroup,omitempty"`
	// RestoredFrom names the image that the sandbox came from.
	RestoredFrom string `json:"restoredFrom,omitempty"`
	// Output is the file that holds what the container prints, where that is known.
	Output string `json:"output,omitempty"`
	// MigratedTo names the host on which the sandbox lives now, empty for this one.
	MigratedTo string `json:"migratedTo,omitempty"`
}

// idPattern is runc's.
var idPattern = regexp.MustCompile(`^[\w+.-]{1,128}$`)

// IsID says whether a text can name a sandbox, or a container of one.
func IsID(text string) bool { return idPattern.MatchString(text) && text != "." && text != ".." }

func (r Root) dir(id string) (string, error) {
	if !IsID(id) {
		return "", fmt.Errorf("%w: %q: want 1 to 128 letters, digits and _ + - . characters", ErrBadID, id)
	}
	return filepath.Join(string(r), id), nil
}

// reserve makes the state directory of a new sandbox.
func (r Root) reserve(id string) (string, error) {
	dir, err := r.dir(id)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(string(r), 0o711); err != nil {
		return "", fmt.Errorf("create state root: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%w: %q in %s: choose another ID, or delete it first", ErrExists, id, r)
	} else if err != nil {
		return "", fmt.Errorf("create state directory: %w", err)
	}
	return dir, nil
}

// Open finds a sandbox by its ID.
func (r Root) Open(id string) (*Sandbox, error) {
	dir, err := r.dir(id)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{dir: dir}
	err = readJSON(filepath.Join(dir, recordName), &s.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q in %s", ErrNotFound, id, r)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %q: %w", id, err)
	}
	return s, nil
}

// List returns all sandboxes, by ID. A directory that is still being made, or
// is not a sandbox's, is left out.
func (r Root) List() ([]*Sandbox, error) {
	entries, err := os.ReadDir(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var all []*Sandbox
	for _, e := range entries {
		if s, err := r.Open(e.Name()); err == nil {
			all = append(all, s)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all, nil
}

// Spec returns the specification as it was at creation.
func (s *Sandbox) Spec() (*specs.Spec, error) {
	var spec specs.Spec
	if err := readJSON(filepath.Join(s.dir, specName), &spec); err != nil {
		return nil, fmt.Errorf("sandbox %q: %w", s.ID, err)
	}
	return &spec, nil
}

// Dir returns the sandbox's state directory.
func (s *Sandbox) Dir() string { return s.dir }

// LogPath returns the path of the log of the sandbox's processes.
func (s *Sandbox) LogPath() string { return filepath.Join(s.processDir(), logName) }

// lock keeps other commands from changing the sandbox until unlock is called. Who has it may be running hooks: ctx ends the
// wait.
func (s *Sandbox) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock sandbox %q: %w", s.ID, err)
	}
	locked := make(chan error, 1)
	go func() { locked <- flock(f) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		go func() {
			<-locked
			f.Close()
		}()
		return nil, fmt.Errorf("wait for the lock of sandbox %q: %w", s.ID, context.Cause(ctx))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock sandbox %q: %w", s.ID, err)
	}
	return func() { f.Close() }, nil
}

// flock waits for a file's lock.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// save publishes the record.
func (s *Sandbox) save() error {
	return writeFile(filepath.Join(s.dir, recordName), &s.Record)
}

func readJSON(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxRecordBytes {
		return fmt.Errorf("%s has %d bytes, limit is %d", path, info.Size(), int64(maxRecordBytes))
	}
	if err := json.NewDecoder(f).Decode(into); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// writeFile publishes v as JSON: readers see the old file or the whole new
// one. A state root lives in memory (/run), so it is not synced.
func writeFile(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
