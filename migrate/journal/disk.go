package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate/failpoint"
)

// disk is where a journal is kept. Tests have one that fails, and forgets what was not synced.
type disk interface {
	// read returns a file's content, at most maxFileBytes and a little more, or an fs.ErrNotExist.
	read(path string) ([]byte, error)
	// append writes at the end of a file, which is at offset, and makes it durable. After an error the bytes may be
	// there in part or whole, durably or not.
	append(path string, offset int64, b []byte) error
	// replace makes path a file with just this content, durably. After an error it is either the old or the new file.
	replace(path string, content []byte) error
}

// realDisk is the machine's.
type realDisk struct{}

func (realDisk) read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFileBytes+1))
}

func (realDisk) append(path string, offset int64, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != offset {
		return fmt.Errorf("%s has %d bytes, expected %d: somebody else wrote it", path, info.Size(), offset)
	}
	if _, err := file.WriteAt(b, offset); err != nil {
		return err
	}
	return syncFile(file)
}

func (realDisk) replace(path string, content []byte) error {
	temporary := path + ".new" // one writer, by the lock
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := syncFile(file); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// syncFile makes a file durable. A test can have it take its time, as a busy disk does.
func syncFile(file *os.File) error {
	failpoint.Delay(failpoint.JournalSync)
	return file.Sync()
}

// lockFile takes the lock that a file stands for. Closing it gives the lock up. The file is never removed: another
// process could hold the lock of a file that has no name any longer.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}
