package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The bytes of DIR/.lock that are locked. What they guard is in the package documentation.
const (
	lockIndex = 0
	lockUsers = 1
)

// A storeLock holds locks on a store. They belong to the open file, so two of one process exclude each other too, and
// end with the process.
type storeLock struct{ file *os.File }

func openLock(dir string) (*storeLock, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, ioError("", err)
	}
	return &storeLock{file: file}, nil
}

// acquire waits for a lock. It replaces what this storeLock has of the same byte.
func (l *storeLock) acquire(kind int16, offset int64) error {
	return l.control(unix.F_OFD_SETLKW, kind, offset)
}

// tryAcquire is acquire without waiting: ErrBusy if another has the lock.
func (l *storeLock) tryAcquire(kind int16, offset int64) error {
	err := l.control(unix.F_OFD_SETLK, kind, offset)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return failf(CodeBusy, filepath.Dir(l.file.Name()), "another checkpoint is being written")
	}
	return err
}

func (l *storeLock) control(command int, kind int16, offset int64) error {
	request := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: offset, Len: 1}
	for {
		err := unix.FcntlFlock(l.file.Fd(), command, &request)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return ioError("", &os.PathError{Op: "lock", Path: l.file.Name(), Err: err})
		}
	}
}

// close ends all locks that it has.
func (l *storeLock) close() {
	_ = l.file.Close() // nothing was written
}
