package image

import (
	"regexp"
	"strings"
)

// DefaultName is the name of an image where the user gave none.
const DefaultName = "latest"

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// A Reference names an image on this host.
type Reference struct {
	Dir  string // the layout's directory, as the user wrote it
	Name string // never empty
}

// ParseReference reads DIR[:name]. What follows the last colon is a name unless it has a slash, so a directory whose
// own last element has a colon needs the name written out.
func ParseReference(text string) (Reference, error) {
	ref := Reference{Dir: text, Name: DefaultName}
	if at := strings.LastIndexByte(text, ':'); at >= 0 && !strings.Contains(text[at:], "/") {
		ref = Reference{Dir: text[:at], Name: text[at+1:]}
	}
	if ref.Dir == "" {
		return Reference{}, failf(CodeReference, "", "image reference %q names no directory", text)
	}
	if strings.ContainsRune(ref.Dir, 0) {
		return Reference{}, failf(CodeReference, "", "image reference %q has a zero byte", text)
	}
	if err := checkName(ref.Name); err != nil {
		return Reference{}, err
	}
	return ref, nil
}

func (r Reference) String() string { return r.Dir + ":" + r.Name }

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return failf(CodeReference, "", "%q is no name for an image", name)
	}
	return nil
}
