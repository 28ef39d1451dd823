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
		{"--systemd-cgroup create --bundle ./shell shell", "shell"},
		{"--log-format json create --bundle ./shell shell", "shell"},
		{"restore --image /var/lib/images web2", "web2"},
		{"restore --image /var/lib/images:web", ""},
		{"run shell --detach", ""},
		{"run shell --bundle ./shell", ""},
		{"run ..", ""},
		{"run " + strings.Repeat("x", maxIDBytes+1), ""},
		{"run sh\x80ll", ""},
		{"run --detach w_e+b-2.x", "w_e+b-2.x"},
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
		id, ok := sandboxOf(commandOf(strings.Fields(c.line)))
		if id != c.id || ok != (c.id != "") {
			t.Errorf("%q: sandbox %q, %v; want %q", c.line, id, ok, c.id)
		}
	}
}

// TestImportsNothingFromOutside checks that this package needs nothing of gVisor's, or of other modules: Go could not initialise it
// before them otherwise.
func TestImportsNothingFromOutside(t *testing.T) {
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
