package hostkey

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// temporaryPrefix begins the names of files that are not published yet. No peer's name begins with a dot.
const temporaryPrefix = ".new-"

func isTemporary(name string) bool { return strings.HasPrefix(name, temporaryPrefix) }

// publish makes a file appear with all of its content, mode 0600, and durably. Where the file exists it returns
// fs.ErrExist and leaves it.
func publish(path string, content []byte) error {
	dir := filepath.Dir(path)
	// CreateTemp opens with mode 0600: the content is at no time readable by others.
	file, err := os.CreateTemp(dir, temporaryPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // fails after the rename, as it should
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	// A plain rename would replace a key that another process published meanwhile.
	if err := unix.Renameat2(unix.AT_FDCWD, file.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
