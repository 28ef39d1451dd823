package early

import (
	"os/exec"
	"strings"
	"testing"
)

func TestSandboxOf(t *testing.T) {
	for _, c := range []struct {
		line string
		id   string // empty: none is needed
	}{
		{"run shell", "shell"},
		{"--root /run/other --debug --log=x run --detach -b ./shell shell", "shell"},
		{"--log-format json create --bundle ./shell shell", "shell"},
		{"restore --image /var/lib/images web2", "web2"},
		{"run --platform kvm shell", ""},
		{"run --platform=kvm shell", ""},
		{"run --help", ""},
		{"run -h", ""},
		{"run", ""},
		{"exec shell run", ""},
		{"list", ""},
		{"--root run", ""},
		{"--root", ""},
		{"", ""},
	} {
		id, ok := sandboxOf(strings.Fields(c.line))
		if id != c.id || ok != (c.id != "") {
			t.Errorf("%q: sandbox %q, %v; want %q", c.line, id, ok, c.id)
		}
	}
}

// TestComesFirst checks that nothing but the standard library is initialised before
// this package is.
func TestComesFirst(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, path := range strings.Fields(string(out)) {
		if !strings.HasPrefix(path, "github.com/sbxmigrate/") {
			t.Errorf("imports %s, which would have to be initialised first", path)
		}
	}
}
