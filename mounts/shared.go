package mounts

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// SharedPrefix begins the annotations of shared mounts:
// dev.gvisor.spec.mount.NAME.FIELD.
const SharedPrefix = "dev.gvisor.spec.mount."

// SharedName returns the name of the shared mount that an annotation speaks of.
func SharedName(annotation string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(annotation, SharedPrefix)
	name, _, _ = strings.Cut(rest, ".")
	return name, ok && name != ""
}

// maxSharedHints bounds how many shared mounts annotations may describe.
const maxSharedHints = maxMounts

// Share says who else sees a shared mount.
type Share string

// The degrees of sharing.
const (
	ShareContainer Share = "container" // one container, nobody outside
	SharePod       Share = "pod"       // containers of the sandbox, nobody outside
	ShareShared    Share = "shared"    // others outside the sandbox too
)

// SharedHint describes one mount that containers of a sandbox share.
type SharedHint struct {
	Name    string   `json:"name"`
	Source  string   `json:"source"` // the bind source that it is recognised by
	Type    string   `json:"type"`   // bind or tmpfs
	Share   Share    `json:"share"`
	Options []string `json:"options,omitempty"`
}

// inMemory says whether the mount needs no files of the host: nobody outside
// looks at it, and it was to be a tmpfs.
func (h *SharedHint) inMemory() bool {
	return h.Type == FilesystemTmpfs && h.Share != ShareShared
}

// ParseShared reads the shared mounts that annotations describe, in order of
// their names. The error is of type Errors and has everything that is wrong.
func ParseShared(annotations map[string]string) ([]SharedHint, error) {
	hints := make(map[string]*SharedHint)
	var errs Errors
	refuse := func(mount, found, expected string) {
		errs = append(errs, &Error{Code: CodeAnnotation, Mount: mount, Found: found, Expected: expected,
			Remedy: "correct the container's annotations"})
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		rest, ok := strings.CutPrefix(key, SharedPrefix)
		if !ok {
			continue
		}
		name, field, ok := strings.Cut(rest, ".")
		if !ok || name == "" || strings.Contains(field, ".") {
			refuse(key, "an annotation without name and field", SharedPrefix+"NAME.{source,type,share,options}")
			continue
		}
		if hints[name] == nil {
			if len(hints) == maxSharedHints {
				refuse(key, "one shared mount too many", fmt.Sprintf("at most %d", maxSharedHints))
				break
			}
			hints[name] = &SharedHint{Name: name}
		}
		if expected := hints[name].set(field, annotations[key]); expected != "" {
			refuse(key, fmt.Sprintf("%s %q", field, annotations[key]), expected)
		}
	}
	all := make([]SharedHint, 0, len(hints))
	sources := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(hints)) {
		h := hints[name]
		if missing := h.missing(); missing != "" {
			refuse(SharedPrefix+name, "no usable "+missing, "source, type and share")
			continue
		}
		if other, taken := sources[h.Source]; taken {
			refuse(SharedPrefix+name, fmt.Sprintf("source %q, which %q has too", h.Source, other), "one name for each source")
			continue
		}
		sources[h.Source] = name
		all = append(all, *h)
	}
	if len(errs) > 0 {
		return all, errs
	}
	return all, nil
}

// set reads one annotation and returns what it should have been, or "".
func (h *SharedHint) set(field, value string) (expected string) {
	switch field {
	case "source":
		h.Source = value
		return "" // an empty one is missing
	case "type":
		if value != typeBind && value != FilesystemTmpfs {
			return "bind or tmpfs"
		}
		h.Type = value
	case "share":
		switch share := Share(value); share {
		case ShareContainer, SharePod, ShareShared:
			h.Share = share
		default:
			return "container, pod or shared"
		}
	case "options":
		if value != "" {
			h.Options = strings.Split(value, ",")
		}
	case "directfs":
		// Of gVisor's own runtime: how it opens files, which is not for a
		// specification to say here.
	default:
		return "a field source, type, share or options"
	}
	return ""
}

// missing returns the first field that must be there and is not.
func (h *SharedHint) missing() string {
	unless := func(set bool, field string) string {
		if set {
			return ""
		}
		return field
	}
	return cmp.Or(unless(h.Source != "", "source"), unless(h.Type != "", "type"), unless(h.Share != "", "share"))
}

// readHints reads the specification's shared mounts.
func (c *compiler) readHints() {
	hints, err := ParseShared(c.spec.Annotations)
	c.errs = append(c.errs, AsErrors(err)...)
	c.hints, c.hintUsed = make(map[string]*SharedHint), make(map[string]bool)
	for i := range hints {
		c.hints[hints[i].Source] = &hints[i]
	}
}

// unusedHints names the shared mounts that the container does not mount.
func (c *compiler) unusedHints() {
	for _, source := range slices.Sorted(maps.Keys(c.hints)) {
		if !c.hintUsed[source] {
			c.warn(WarnHintUnused, SharedPrefix+c.hints[source].Name, "no bind mount has the source %q", source)
		}
	}
}
