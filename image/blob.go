package image

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A newBlob is a blob being written: a file that nobody else sees until publish. Where the file system has anonymous
// files, it goes away with the process.
type newBlob struct {
	dir  string // the layout's
	file *os.File
	path string    // in tempDir, or empty if the file is anonymous
	sum  hash.Hash // of what was written, not of what was appended
	size int64
}

func (s *Store) createBlob() (*newBlob, error) {
	b := &newBlob{dir: s.dir, sum: sha256.New()}
	file, err := os.OpenFile(filepath.Join(s.dir, blobsDir), unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil && s.noAnonymous {
		err = errors.Join(unix.EOPNOTSUPP, file.Close())
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		b.path = tempPath(s.dir)
		file, err = os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, ioError("", err)
	}
	b.file = file
	return b, nil
}

func tempPath(dir string) string {
	return filepath.Join(dir, tempDir, rand.Text())
}

// Write appends and hashes. An error leaves a blob that can only be discarded.
func (b *newBlob) Write(data []byte) (int, error) {
	if err := b.append(data); err != nil {
		return 0, err
	}
	return b.sum.Write(data)
}

// append is Write without hashing.
func (b *newBlob) append(data []byte) error {
	n, err := b.file.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	b.size += int64(n)
	return ioError("", err)
}

// sync makes the content durable; only publish makes the blob so.
func (b *newBlob) sync() error {
	for {
		err := unix.Fdatasync(int(b.file.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return ioError("", &os.PathError{Op: "sync", Path: b.dir, Err: err})
		}
	}
}

func (b *newBlob) descriptor(mediaType string) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.NewDigest(digest.SHA256, b.sum), Size: b.size}
}

// publish gives the blob its name and closes it. A blob of that name is replaced: should it be damaged, then the new image
// is not.
func (b *newBlob) publish(d Descriptor) error {
	target := blobPath(b.dir, d.Digest)
	if b.path == "" {
		err := b.link(target)
		if err == nil {
			return ioError("", b.file.Close())
		}
		if !errors.Is(err, unix.EEXIST) {
			return ioError("", &os.LinkError{Op: "link", Old: "new blob", New: target, Err: err})
		}
		path := tempPath(b.dir)
		if err := b.link(path); err != nil {
			return ioError("", &os.LinkError{Op: "link", Old: "new blob", New: path, Err: err})
		}
		b.path = path
	}
	if err := os.Rename(b.path, target); err != nil {
		return ioError("", err)
	}
	b.path = ""
	return ioError("", b.file.Close())
}

// link gives an anonymous file a name: by way of /proc, or, where there is none, directly, which newer kernels allow to who opened
// the file.
func (b *newBlob) link(path string) error {
	self := fmt.Sprintf("/proc/self/fd/%d", b.file.Fd())
	err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Linkat(int(b.file.Fd()), "", unix.AT_FDCWD, path, unix.AT_EMPTY_PATH)
	}
	return err
}

// discard removes what publish has not published.
func (b *newBlob) discard() {
	_ = b.file.Close() // it may be closed already, and its content does not matter
	if b.path != "" {
		_ = os.Remove(b.path) // what is left is removed by the next writer
	}
}

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, blobsDir, d.Encoded())
}

// openBlob opens a blob whose size is as its descriptor says.
func openBlob(dir, name string, d Descriptor) (*os.File, error) {
	file, err := os.Open(blobPath(dir, d.Digest))
	if err != nil {
		return nil, ioError(name, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = failf(CodeDamaged, name, "is no regular file")
	}
	if err == nil && info.Size() != d.Size {
		err = failf(CodeDamaged, name, "has %d bytes instead of %d", info.Size(), d.Size)
	}
	if err != nil {
		_ = file.Close() // only read
		return nil, ioError(name, err)
	}
	return file, nil
}

// readBlob returns a blob that matches its digest. The caller has bounded the descriptor's size.
func readBlob(dir, name string, d Descriptor) ([]byte, error) {
	file, err := openBlob(dir, name, d)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data := make([]byte, d.Size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, readError(name, err)
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != d.Digest.Encoded() {
		return nil, failf(CodeDamaged, name, "does not match its digest")
	}
	return data, nil
}

// readError is for reads within the size that a file had: an early end is damage.
func readError(name string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return failf(CodeDamaged, name, "was cut while it was read")
	}
	return ioError(name, err)
}

// replaceFile publishes a small file of the layout: write, sync, rename, sync the directory.
func replaceFile(dir, name string, data []byte) error {
	path := tempPath(dir)
	err := writeFileSynced(path, data)
	if err == nil {
		err = os.Rename(path, filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(path) // the first error counts
		return ioError("", err)
	}
	return syncDir(dir)
}

func writeFileSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, bytes.NewReader(data))
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return ioError("", err)
	}
	return ioError("", errors.Join(file.Sync(), file.Close()))
}
