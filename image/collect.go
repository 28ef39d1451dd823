package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Collected says what Collect freed.
type Collected struct {
	Blobs int
	Bytes int64
}

// Delete removes an image's name and then, unless a checkpoint is being written, what no image needs any more. Where it returns
// ErrBusy the name is gone, and the next Collect frees the space.
func (s *Store) Delete(name string) (Collected, error) {
	lock, err := openLock(s.dir)
	if err != nil {
		return Collected{}, err
	}
	_, err = s.updateIndex(lock, func(index *v1.Index) (bool, error) {
		at := findImage(index, name)
		if at < 0 {
			return false, failf(CodeNotFound, s.dir, "has no image %q", name)
		}
		index.Manifests = append(index.Manifests[:at], index.Manifests[at+1:]...)
		return true, nil
	})
	lock.close()
	if err != nil {
		return Collected{}, err
	}
	return s.Collect()
}

// Collect removes the blobs that no image of the store refers to, and what killed writers left. It returns ErrBusy
// if a checkpoint is being written, and removes nothing if it cannot read all that might refer to a blob. Images that are open
// stay readable.
func (s *Store) Collect() (Collected, error) {
	lock, err := openLock(s.dir)
	if err != nil {
		return Collected{}, err
	}
	defer lock.close()
	if err := lock.tryAcquire(unix.F_WRLCK, lockUsers); err != nil {
		return Collected{}, err
	}
	if err := lock.acquire(unix.F_WRLCK, lockIndex); err != nil {
		return Collected{}, err
	}
	index, err := s.readIndex()
	if err != nil {
		return Collected{}, err
	}
	m := marker{store: s, needed: map[digest.Digest]bool{}, walked: map[digest.Digest]bool{}}
	for _, d := range index.Manifests {
		if err := m.walk(d, 0); err != nil {
			return Collected{}, err
		}
	}
	s.sweepTemp()
	return s.sweep(m.needed)
}

// A marker finds all blobs that the images of a store need.
type marker struct {
	store  *Store
	needed map[digest.Digest]bool
	walked map[digest.Digest]bool
}

// walk marks a manifest and all that it refers to. It reads by the fields that all OCI manifests and indexes share, since a
// layout may hold images of others.
func (m *marker) walk(d Descriptor, depth int) error {
	m.needed[d.Digest] = true
	if m.walked[d.Digest] {
		return nil
	}
	m.walked[d.Digest] = true
	name := "manifest " + d.Digest.String()
	if depth > collectDepth || d.Size < 0 || d.Size > MaxManifestBytes {
		return failf(CodeDamaged, name, "cannot tell which blobs it needs, so nothing was removed")
	}
	data, err := readBlob(m.store.dir, name, d)
	if err != nil {
		return err
	}
	var refers struct {
		Config    Descriptor   `json:"config"`
		Layers    []Descriptor `json:"layers"`
		Blobs     []Descriptor `json:"blobs"`
		Subject   Descriptor   `json:"subject"`
		Manifests []Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &refers); err != nil {
		return &Error{Code: CodeDamaged, Blob: name, Err: err}
	}
	for _, blob := range slices.Concat([]Descriptor{refers.Config}, refers.Layers, refers.Blobs) {
		m.needed[blob.Digest] = true
	}
	for _, nested := range append(refers.Manifests, refers.Subject) {
		if !m.store.has(nested.Digest) {
			continue // a part of an image for several platforms, or what a signature is of: it may be elsewhere
		}
		if err := m.walk(nested, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// has says whether the store has a blob. It takes any digest, also none.
func (s *Store) has(d digest.Digest) bool {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return false
	}
	_, err := os.Lstat(blobPath(s.dir, d))
	return err == nil
}

func (s *Store) sweep(needed map[digest.Digest]bool) (Collected, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, blobsDir))
	if err != nil {
		return Collected{}, ioError("", err)
	}
	var result Collected
	for _, entry := range entries {
		d := digest.NewDigestFromEncoded(digest.SHA256, entry.Name())
		if d.Validate() != nil || needed[d] {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.Remove(blobPath(s.dir, d))
		}
		if err != nil {
			return result, ioError("", err)
		}
		result.Blobs++
		result.Bytes += info.Size()
	}
	return result, syncDir(filepath.Join(s.dir, blobsDir))
}

// sweepTemp removes what killed writers left. The caller has lockUsers alone, so no writer lives.
func (s *Store) sweepTemp() {
	entries, err := os.ReadDir(filepath.Join(s.dir, tempDir))
	if err != nil {
		return // there is none, or the next one to write says so
	}
	for _, entry := range entries {
		_ = os.Remove(filepath.Join(s.dir, tempDir, entry.Name())) // the next Collect tries again
	}
}
