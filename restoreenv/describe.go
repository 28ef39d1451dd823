package restoreenv

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// String describes a mount as one side of a finding.
func (l located) String() string {
	text := l.filesystem
	if l.Flags.ReadOnly {
		text += ", read-only"
	}
	if options := l.options(); len(options) > 0 {
		text += ", " + strings.Join(options, ",")
	}
	if source := cmp.Or(l.hostPath, l.Source); source != "" {
		text += ", from " + source
	}
	return text
}

// options returns everything that a specification's options say about a mount
// except whether it is read-only, in a canonical order.
func (e *Entry) options() []string {
	var options []string
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{e.Flags.NoATime, "noatime"}, {e.Flags.NoDev, "nodev"}, {e.Flags.NoExec, "noexec"}, {e.Flags.NoSUID, "nosuid"},
		{e.Recursive, "rbind"},
	} {
		if flag.set {
			options = append(options, flag.name)
		}
	}
	if e.Data != "" {
		data := strings.Split(e.Data, ",")
		slices.Sort(data)
		options = append(options, data...)
	}
	return options
}

func optionText(options []string) string {
	if len(options) == 0 {
		return "no options"
	}
	return strings.Join(options, ",")
}

// ociType returns the type that a mount of a filesystem has in a specification.
func ociType(filesystem string) string {
	if filesystem == mounts.FilesystemGofer {
		return "bind"
	}
	return filesystem
}

func fileKind(isFile bool) string {
	if isFile {
		return "a file"
	}
	return "a directory"
}

func pathOrBundle(source string) string { return cmp.Or(source, "a path in the bundle") }

// orMap adds the way out that every served mount has.
func orMap(b Backing) string {
	if !b.Served() {
		return ""
	}
	return fmt.Sprintf(", or give --map %s=PATH", b.Destination)
}
