package gofer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// maxMapBytes bounds a uid_map: maxIDMappings lines of three 32-bit numbers.
const maxMapBytes = maxIDMappings * 3 * 11

// idMappings returns the mappings for the gofer's user namespace.
func (c *Config) idMappings() (spare.Mappings, error) {
	uid, gid := c.UIDMappings, c.GIDMappings
	if len(uid) == 0 && len(gid) == 0 {
		if c.UserNamespacePath == "" {
			return spare.Mappings{}, nil
		}
		var err error
		if uid, gid, err = namespaceMappings(c.UserNamespacePath); err != nil {
			return spare.Mappings{}, fmt.Errorf("user namespace %q: %w", c.UserNamespacePath, err)
		}
	}
	ids := spare.Mappings{UID: make([]syscall.SysProcIDMap, 0, len(uid)), GID: make([]syscall.SysProcIDMap, 0, len(gid))}
	for _, m := range []struct {
		kind string
		from []specs.LinuxIDMapping
		to   *[]syscall.SysProcIDMap
	}{{"user", uid, &ids.UID}, {"group", gid, &ids.GID}} {
		if err := convertMappings(m.from, m.to); err != nil {
			return spare.Mappings{}, fmt.Errorf("%s ID mappings: %w", m.kind, err)
		}
	}
	return ids, nil
}

// convertMappings checks what the kernel would refuse without a reason, and
// that there is an ID 0 for the gofer to run as.
func convertMappings(from []specs.LinuxIDMapping, to *[]syscall.SysProcIDMap) error {
	if len(from) > maxIDMappings {
		return fmt.Errorf("%d lines, the kernel takes %d", len(from), maxIDMappings)
	}
	hasRoot := false
	for _, m := range from {
		if m.Size == 0 {
			return fmt.Errorf("container ID %d has size 0", m.ContainerID)
		}
		hasRoot = hasRoot || m.ContainerID == 0
		*to = append(*to, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	if !hasRoot {
		return errors.New("ID 0 is not mapped, and the gofer serves as it")
	}
	return nil
}

// namespaceMappings returns the mappings of an existing user namespace. The
// kernel shows them only through a process in it.
func namespaceMappings(path string) (uid, gid []specs.LinuxIDMapping, err error) {
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return nil, nil, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, nil, err
	}
	for _, process := range processes {
		if !inNamespace(process, want) {
			continue
		}
		uid, err = readIDMap(process + "/uid_map")
		if err == nil {
			gid, err = readIDMap(process + "/gid_map")
		}
		// Whoever left the namespace meanwhile may have been another process.
		if err == nil && inNamespace(process, want) {
			return uid, gid, nil
		}
	}
	return nil, nil, errors.New("no process is in it, so its mappings cannot be read: give them")
}

// inNamespace says whether the process is in the user namespace want.
func inNamespace(process string, want unix.Stat_t) bool {
	var got unix.Stat_t
	return unix.Stat(process+"/ns/user", &got) == nil && got.Dev == want.Dev && got.Ino == want.Ino
}

// readIDMap reads a uid_map or gid_map.
func readIDMap(path string) ([]specs.LinuxIDMapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseIDMap(io.LimitReader(f, maxMapBytes))
}

// parseIDMap parses lines of container ID, host ID and size.
func parseIDMap(r io.Reader) ([]specs.LinuxIDMapping, error) {
	var mappings []specs.LinuxIDMapping
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscanf(strings.TrimSpace(lines.Text()), "%d %d %d", &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("ID map line %q: %w", lines.Text(), err)
		}
		mappings = append(mappings, m)
	}
	return mappings, lines.Err()
}
