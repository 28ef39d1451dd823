package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	fileSuffix = ".journal"
	lockSuffix = ".journal.lock"

	// maxNameBytes bounds a sandbox id: it must fit the header and a file name.
	maxNameBytes = 200
)

// Journal is the open journal of one sandbox on this host. Its methods may be called concurrently.
type Journal struct {
	path    string
	sandbox string
	disk    disk
	lock    *os.File // nil in tests

	mu sync.Mutex
	// history is what is durable. Guarded by mu, as is everything below.
	history *History
	// sum is the checksum of the file's last block.
	sum uint32
	// uncertain: the file may hold more than history says, since a write failed. The next Append replaces it.
	uncertain bool
	closed    bool
}

// Open opens the journal of a sandbox, creating both it and dir where they do not exist, and takes its lock until
// Close or the end of the process. It returns ErrLocked at once where another process has it, and a CorruptError
// where it is damaged.
//
// What Open returns is durable, whatever happened to the writes that made it: see the package documentation.
func Open(dir, sandbox string) (*Journal, error) {
	if err := checkName(sandbox); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, sandbox+lockSuffix))
	if err != nil {
		return nil, fmt.Errorf("open journal of %s: %w", sandbox, err)
	}
	j, err := open(realDisk{}, filepath.Join(dir, sandbox+fileSuffix), sandbox)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open journal of %s: %w", sandbox, err)
	}
	j.lock = lock
	return j, nil
}

// open is Open on any disk, without a lock.
func open(d disk, path, sandbox string) (*Journal, error) {
	j := &Journal{path: path, sandbox: sandbox, disk: d, history: new(History)}
	b, err := d.read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if j.history, _, err = load(path, sandbox, b); err != nil {
			return nil, err
		}
	}
	if err := j.replace(j.history.records); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return j, nil
}

// load parses a file and checks that its records may follow each other.
func load(path, sandbox string, b []byte) (history *History, torn bool, err error) {
	content, err := parse(path, sandbox, b)
	if err != nil {
		return nil, false, err
	}
	history, at, err := fold(content.records)
	if err != nil {
		return nil, false, &CorruptError{Path: path, Block: at + 1, Reason: err.Error()}
	}
	return history, content.torn, nil
}

// Read returns what the journal of a sandbox says right now, without its lock: for lists and reports. Nobody may act
// on it. A sandbox without journal has the zero History.
func Read(dir, sandbox string) (*History, error) {
	if err := checkName(sandbox); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, sandbox+fileSuffix)
	b, err := realDisk{}.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(History), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal of %s: %w", sandbox, err)
	}
	history, _, err := load(path, sandbox, b)
	return history, err
}

// List returns the sandboxes that have a journal in dir, in order.
func List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list journals: %w", err)
	}
	var sandboxes []string
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), fileSuffix); ok && checkName(name) == nil {
			sandboxes = append(sandboxes, name)
		}
	}
	return sandboxes, nil
}

// Sandbox returns the id of the sandbox that the journal is about.
func (j *Journal) Sandbox() string { return j.sandbox }

// History returns what is durable.
func (j *Journal) History() *History {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.history.clone()
}

// Append makes a record durable. Only after it returned nil may anyone act on the record.
//
// ErrIllegal, ErrOpenAttempt, ErrStaleEpoch and ErrFull mean that nothing was written. ErrUncertain means that the
// record may or may not be on the disk: neither it nor its absence may be acted upon until another Append succeeds,
// whose record may be the same one or what else may follow the last durable one. That Append replaces the file, so what failed
// before it is gone.
func (j *Journal) Append(r Record) error {
	r = r.clean()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return ErrClosed
	}
	if err := j.history.check(r); err != nil {
		return err
	}
	block, err := r.encode(j.sum)
	if err != nil {
		return err
	}
	if err := j.write(r, block); err != nil {
		j.uncertain = true
		return fmt.Errorf("%w: %s of attempt %v: %w", ErrUncertain, r.State, r.Attempt, err)
	}
	j.history.add(r)
	return nil
}

// write puts a record behind the others, or replaces the file where its end is not known.
func (j *Journal) write(r Record, block []byte) error {
	if j.uncertain {
		return j.replace(append(j.history.clone().records, r))
	}
	if err := j.disk.append(j.path, int64(1+len(j.history.records))*blockBytes, block); err != nil {
		return err
	}
	_, j.sum, _ = unseal(block, j.sum)
	return nil
}

// replace publishes a file that holds exactly these records.
func (j *Journal) replace(records []Record) error {
	block := encodeHeader(j.sandbox)
	_, sum, _ := unseal(block, 0)
	content := block
	for _, r := range records {
		block, err := r.encode(sum)
		if err != nil {
			return err
		}
		_, sum, _ = unseal(block, sum)
		content = append(content, block...)
	}
	if err := j.disk.replace(j.path, content); err != nil {
		return err
	}
	j.sum, j.uncertain = sum, false
	return nil
}

// Close gives up the lock. It may be called twice.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.lock == nil {
		j.closed = true
		return nil
	}
	j.closed = true
	return j.lock.Close()
}

// checkName refuses a sandbox id that is no plain file name.
func checkName(sandbox string) error {
	if sandbox == "" || len(sandbox) > maxNameBytes || sandbox[0] == '.' || strings.ContainsAny(sandbox, "/\x00\n ") {
		return fmt.Errorf("%w: %q", ErrName, sandbox)
	}
	return nil
}
