package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// A Store is an OCI image layout. It holds nothing open, and any number of goroutines and processes may use one
// directory at once.
type Store struct {
	dir     string
	created bool // by this process: an abort removes it while it is empty

	noAnonymous bool // set by tests: act as on a file system that has no anonymous files
}

// Dir returns the layout's directory.
func (s *Store) Dir() string { return s.dir }

// OpenStore opens a layout that exists.
func OpenStore(dir string) (*Store, error) {
	data, err := readSmallFile(dir, layoutFile, MaxIndexJSONBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failf(CodeNotStore, dir, "is no image directory: it has no file oci-layout")
	}
	if err != nil {
		return nil, err
	}
	if err := decodeLayout(data); err != nil {
		return nil, err
	}
	return &Store{dir: dir}, nil
}

// CreateStore opens a layout, and makes it where there is none. A directory with other things in it is refused. Files are
// for their owner only: an image has what the sandbox had in memory.
func CreateStore(dir string) (*Store, error) {
	s, err := OpenStore(dir)
	if !errors.Is(err, ErrNotStore) {
		return s, err
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o700); err != nil {
		return nil, ioError("", err)
	}
	err = os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, ioError("", err)
	}
	if err := checkUnclaimed(dir); err != nil {
		return nil, err
	}
	s = &Store{dir: dir, created: made}
	if err := s.initialise(); err != nil {
		s.created = true // what stands there is ours, or it would not be empty
		s.removeIfEmpty()
		return nil, err
	}
	return s, nil
}

// checkUnclaimed refuses a directory in which there is anything but what an interrupted initialise left.
func checkUnclaimed(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ioError("", err)
	}
	for _, entry := range entries {
		switch entry.Name() {
		case v1.ImageBlobsDir, tempDir, lockFile, indexJSON, layoutFile:
		default:
			return failf(CodeNotStore, dir, "has other files, such as %s, and is no image directory", entry.Name())
		}
	}
	return nil
}

// initialise makes an empty layout. The file that marks it as one comes last. Two processes may do it at once.
func (s *Store) initialise() error {
	if err := os.MkdirAll(filepath.Join(s.dir, blobsDir), 0o700); err != nil {
		return ioError("", err)
	}
	if err := s.makeTemp(); err != nil {
		return err
	}
	lock, err := openLock(s.dir)
	if err != nil {
		return err
	}
	defer lock.close()
	if err := lock.acquire(unix.F_WRLCK, lockIndex); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(s.dir, indexJSON)); errors.Is(err, fs.ErrNotExist) {
		if err := s.writeIndex(newIndexJSON()); err != nil {
			return err
		}
	}
	return replaceFile(s.dir, layoutFile, layoutContent)
}

func (s *Store) makeTemp() error {
	err := os.Mkdir(filepath.Join(s.dir, tempDir), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return ioError("", err)
}

// removeIfEmpty takes back a layout that this process made and nobody has used. It removes only what it knows and stops at
// the first thing that is not as it should be.
func (s *Store) removeIfEmpty() {
	if !s.created {
		return
	}
	lock, err := openLock(s.dir)
	if err != nil {
		return
	}
	defer lock.close()
	if err := lock.tryAcquire(unix.F_WRLCK, lockUsers); err != nil {
		return // somebody else has begun to use it
	}
	if index, err := s.readIndex(); err == nil && len(index.Manifests) > 0 {
		return
	}
	for _, name := range []string{tempDir, blobsDir, v1.ImageBlobsDir} {
		err := os.Remove(filepath.Join(s.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	for _, name := range []string{indexJSON, layoutFile, lockFile, ""} {
		_ = os.Remove(filepath.Join(s.dir, name)) // an empty layout that cannot be removed does no harm
	}
}

func (s *Store) readIndex() (*v1.Index, error) {
	data, err := readSmallFile(s.dir, indexJSON, MaxIndexJSONBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Code: CodeMissingBlob, Blob: indexJSON, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return decodeIndexJSON(data)
}

// writeIndex is called with lockIndex held.
func (s *Store) writeIndex(index *v1.Index) error {
	data, err := json.Marshal(index)
	if err != nil {
		return ioError("", err)
	}
	if len(data) > MaxIndexJSONBytes || len(index.Manifests) > MaxImages {
		return failf(CodeTooLarge, indexJSON, "the store has too many images")
	}
	return replaceFile(s.dir, indexJSON, data)
}

// updateIndex changes index.json under its lock, unless change says not to. It returns whether it wrote.
func (s *Store) updateIndex(lock *storeLock, change func(*v1.Index) (bool, error)) (bool, error) {
	if err := lock.acquire(unix.F_WRLCK, lockIndex); err != nil {
		return false, err
	}
	index, err := s.readIndex()
	if err != nil {
		return false, err
	}
	changed, err := change(index)
	if err != nil || !changed {
		return false, err
	}
	return true, s.writeIndex(index)
}

// readSmallFile reads a file of the layout that has no digest.
func readSmallFile(dir, name string, maxBytes int64) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError("", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxBytes {
		return nil, failf(CodeDamaged, name, "is no regular file of at most %d bytes", maxBytes)
	}
	data, err := os.ReadFile(path)
	return data, ioError("", err)
}

// A Listing is an image of a store by its name.
type Listing struct {
	Name       string // empty for one that has none
	Manifest   Descriptor
	Checkpoint bool // false for what others put into the layout
}

// List returns the store's images in the order of index.json. It opens none of them.
func (s *Store) List() ([]Listing, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []Listing
	for _, d := range index.Manifests {
		list = append(list, Listing{Name: d.Annotations[v1.AnnotationRefName], Manifest: d, Checkpoint: d.ArtifactType == ArtifactType})
	}
	return list, nil
}
