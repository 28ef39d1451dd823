package restoreenv

import (
	"fmt"
	"slices"
	"strings"
)

// Policy says which differences a restore accepts.
type Policy string

// The policies.
const (
	PolicyStrict  Policy = "strict"  // none; the default
	PolicyRelaxed Policy = "relaxed" // extra mounts and changed sources
)

// ParsePolicy reads a policy's name; "" is strict.
func ParsePolicy(name string) (Policy, error) {
	switch p := Policy(name); p {
	case "":
		return PolicyStrict, nil
	case PolicyStrict, PolicyRelaxed:
		return p, nil
	default:
		return "", fmt.Errorf("policy %q is neither %q nor %q", name, PolicyStrict, PolicyRelaxed)
	}
}

// Severity says under which policy a finding refuses a restore.
type Severity string

// The severities.
const (
	SeverityAlways Severity = "always" // under every policy
	SeverityStrict Severity = "strict" // under the strict policy only
)

// Code names one kind of finding. Codes are stable and shown to the user. What
// is wrong with a bundle has the code of package mounts.
type Code string

// Codes of findings.
const (
	CodeMissing          Code = "E_ENV_MISSING"           // a saved mount is not in the bundle
	CodeLeftOver         Code = "E_ENV_LEFT_OVER"         // the bundle has a mount that was not saved
	CodeType             Code = "E_ENV_TYPE"              // another filesystem
	CodeDevice           Code = "E_ENV_DEVICE"            // another device
	CodeBecameWritable   Code = "E_ENV_BECAME_WRITABLE"   // was read-only
	CodeBecameReadOnly   Code = "E_ENV_BECAME_READ_ONLY"  // was writable
	CodeOptions          Code = "E_ENV_OPTIONS"           // other flags or options
	CodeSourceChanged    Code = "E_ENV_SOURCE_CHANGED"    // a bind from another path
	CodeSourceMissing    Code = "E_ENV_SOURCE_MISSING"    // the source does not exist here
	CodeSourceKind       Code = "E_ENV_SOURCE_KIND"       // file instead of directory, or the reverse
	CodeSourceUnusable   Code = "E_ENV_SOURCE_UNUSABLE"   // the source cannot be served
	CodeContent          Code = "E_ENV_CONTENT"           // the source has other content
	CodeMapUnused        Code = "E_ENV_MAP_UNUSED"        // --map names no saved mount
	CodeBundle           Code = "E_ENV_BUNDLE"            // the bundle could not be read
	CodeContainerMissing Code = "E_ENV_CONTAINER_MISSING" // a saved container has no bundle
	CodeContainerExtra   Code = "E_ENV_CONTAINER_EXTRA"   // a bundle for a container that was not saved
)

// Codes returns every code of this package with its meaning, for documentation.
func Codes() map[Code]string {
	return map[Code]string{
		CodeMissing:          "a mount of the saved sandbox is not in the bundle",
		CodeLeftOver:         "the bundle has a mount that the saved sandbox does not have",
		CodeType:             "a mount has another type than in the saved sandbox",
		CodeDevice:           "a mount has another device than in the saved sandbox",
		CodeBecameWritable:   "a mount was read-only in the saved sandbox and is writable in the bundle",
		CodeBecameReadOnly:   "a mount was writable in the saved sandbox and is read-only in the bundle",
		CodeOptions:          "a mount has other options than in the saved sandbox",
		CodeSourceChanged:    "a bind mount comes from another path than in the saved sandbox",
		CodeSourceMissing:    "what is to back a saved mount does not exist on this host",
		CodeSourceKind:       "what is to back a saved mount is a file instead of a directory, or the reverse",
		CodeSourceUnusable:   "what is to back a saved mount cannot be served",
		CodeContent:          "what is to back a saved mount has other content than it had when saved",
		CodeMapUnused:        "--map names a destination that the saved sandbox has no files of the host on",
		CodeBundle:           "the bundle's mounts could not be compiled",
		CodeContainerMissing: "a container of the saved sandbox has no bundle",
		CodeContainerExtra:   "there is a bundle for a container that the saved sandbox does not have",
	}
}

// Finding is one difference between the saved sandbox and this host.
type Finding struct {
	Code        Code     `json:"code"`
	Severity    Severity `json:"severity"`
	Container   string   `json:"container"`
	Destination string   `json:"destination"`
	Saved       string   `json:"saved,omitempty"`   // the saved side; empty: it has none
	Target      string   `json:"target,omitempty"`  // this host's side; empty: it has none
	Nearest     string   `json:"nearest,omitempty"` // the most similar thing that has no match
	Remedy      string   `json:"remedy"`
}

// Refuses says whether the finding stops a restore under a policy; "" is strict.
func (f *Finding) Refuses(policy Policy) bool {
	return f.Severity != SeverityStrict || policy != PolicyRelaxed
}

// String is one line for people.
func (f *Finding) String() string {
	side := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return s
	}
	line := fmt.Sprintf("mount %q of container %q: saved %s, here %s", f.Destination, f.Container, side(f.Saved), side(f.Target))
	if f.Nearest != "" {
		line += fmt.Sprintf(" (nearest: %s)", f.Nearest)
	}
	return fmt.Sprintf("%s: %s [%s]", line, f.Remedy, f.Code)
}

// Findings are all differences, by container and in the order of its mounts.
type Findings []Finding

// Refuses says whether a restore must not go ahead under a policy.
func (f Findings) Refuses(policy Policy) bool {
	return slices.ContainsFunc(f, func(finding Finding) bool { return finding.Refuses(policy) })
}

// Err returns the findings that refuse as one error of type *RefusedError, or nil.
func (f Findings) Err(policy Policy) error {
	var refusing Findings
	for _, finding := range f {
		if finding.Refuses(policy) {
			refusing = append(refusing, finding)
		}
	}
	if len(refusing) == 0 {
		return nil
	}
	return &RefusedError{Findings: refusing}
}

// RefusedError says why a saved sandbox cannot be restored with what this host
// offers.
type RefusedError struct{ Findings Findings }

// Error has one line a finding.
func (e *RefusedError) Error() string {
	lines := []string{"the saved sandbox does not fit this host"}
	for _, finding := range e.Findings {
		lines = append(lines, finding.String())
	}
	return strings.Join(lines, "\n")
}
