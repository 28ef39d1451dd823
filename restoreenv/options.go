package restoreenv

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Options control Resolve. The zero value maps nothing and knows of nothing
// wrong with the bundles.
type Options struct {
	// Policy is not looked at by Resolve, which finds the same under each. It is
	// here so that one value carries what a user asked for to the verdict.
	Policy Policy
	// Map has the absolute host path to use for a destination, whatever the bundle
	// says. It applies to every container that has a gofer-served mount there, and as
	// CONTAINER:DESTINATION to that one alone, whatever is said for all.
	Map map[string]string
	// BundleErrors are what mounts.Compile refused, by container. They become
	// findings among the others.
	BundleErrors map[string]error
	// Fingerprint identifies the content of a host path, for saved mounts that
	// have a fingerprint. Default: the function Fingerprint.
	Fingerprint func(path string) (string, error)
}

// ParseMap reads mappings of the form DESTINATION=SOURCE, or
// CONTAINER:DESTINATION=SOURCE. A relative source starts from the working directory.
func ParseMap(mappings []string) (map[string]string, error) {
	parsed := make(map[string]string, len(mappings))
	for _, mapping := range mappings {
		destination, source, ok := strings.Cut(mapping, "=")
		of := ""
		if at := strings.Index(destination, ":/"); at > 0 && !path.IsAbs(destination) {
			of, destination = destination[:at+1], destination[at+1:]
		}
		if !ok || !path.IsAbs(destination) || source == "" {
			return nil, fmt.Errorf("mapping %q is not of the form [CONTAINER:]DESTINATION=SOURCE with an absolute destination", mapping)
		}
		destination = of + path.Clean(destination)
		if other, twice := parsed[destination]; twice {
			return nil, fmt.Errorf("mapping %q: %q is mapped to %q already", mapping, destination, other)
		}
		source, err := filepath.Abs(source)
		if err != nil {
			return nil, fmt.Errorf("mapping %q: %w", mapping, err)
		}
		parsed[destination] = source
	}
	return parsed, nil
}
