package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// Capabilities by number, as in /proc/PID/status.
const (
	capChown         = 1 << 0
	capDACOverride   = 1 << 1
	capDACReadSearch = 1 << 2
	capFowner        = 1 << 3
	capFsetid        = 1 << 4
	capSetgid        = 1 << 6
	capSetuid        = 1 << 7
	capSysPtrace     = 1 << 19
	capMknod         = 1 << 27
	capSetfcap       = 1 << 31

	// sandboxMayHave: the files of read-only mounts are opened by the sandbox itself, below a descriptor that the gofer gave; and the
	// platform traces its own stubs.
	sandboxMayHave = capChown | capDACOverride | capDACReadSearch | capFowner | capFsetid | capSysPtrace
	// goferMayHave: it does to files what the guest's users may.
	goferMayHave = capChown | capDACOverride | capDACReadSearch | capFowner | capFsetid | capSetgid | capSetuid | capMknod | capSetfcap
)

// What the sandbox and the gofer may hold open: nothing that has a name on the host, besides the null device and what stdio was given.
var harmlessDescriptor = regexp.MustCompile(`^(socket:|pipe:|anon_inode:|/memfd:|/dev/null|/dev/pts/|/proc/\d+/ns/|net:|mnt:|user:|pid:)`)

// What a gofer serves, by the name that it has in the gofer's own root: a number for each mount.
var servedDescriptor = regexp.MustCompile(`^/(\d+(/.*)?)?$`)

// confinement is how a process looks from outside.
type confinement struct {
	process
	role         string // "sandbox", "gofer" or "other"
	capabilities uint64
}

// lookAt reads what the kernel says of every process of the binary, and tells them apart by the root that they have.
func lookAt(t *testing.T) []confinement {
	t.Helper()
	var all []confinement
	for _, p := range binaryProcesses() {
		capabilities, err := strconv.ParseUint(p.status("CapEff"), 16, 64)
		if err != nil {
			t.Fatalf("process %d: CapEff %q: %v", p.pid, p.status("CapEff"), err)
		}
		c := confinement{process: p, role: "other", capabilities: capabilities}
		entries, err := os.ReadDir(p.file("root"))
		switch {
		case err == nil && len(entries) == 0:
			c.role = "sandbox"
		case err == nil && !sameFile(p.file("root"), "/"):
			c.role = "gofer"
		}
		all = append(all, c)
	}
	return all
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Before the first guest instruction, the sandbox and the gofer can already do nothing that they need not.
func TestProcessesAreConfinedBeforeStart(t *testing.T) {
	h := newHost(t)
	root := h.path("rootfs")
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	bundle := h.bundle("confined", guest.Bundle{
		Args: []string{"/bin/sleep", "1000"}, Root: root,
		Mounts: []specs.Mount{guest.Bind(h.directory("data"), "/mnt", "rw")},
	})
	h.mustLaunch("confined", "create", "--bundle", bundle, "confined")
	h.wantStatus("confined", specs.StateCreated)
	checkConfinement(t, h)

	// And it stays so when the guest runs.
	h.must("start", "confined")
	h.exec("confined", "/bin/true")
	checkConfinement(t, h)
}

func checkConfinement(t *testing.T, h *host) {
	t.Helper()
	seen := map[string]int{}
	for _, c := range lookAt(t) {
		seen[c.role]++
		switch c.role {
		case "sandbox":
			checkProcess(t, h, c, sandboxMayHave, []string{"pid", "mnt", "ipc", "net"})
		case "gofer":
			checkProcess(t, h, c, goferMayHave, []string{"mnt", "ipc", "net"})
		}
	}
	if seen["sandbox"] == 0 || seen["gofer"] != 1 {
		t.Errorf("found %v processes by role, want at least one sandbox with an empty root and exactly one gofer: %v", seen, binaryProcesses())
	}
}

// checkProcess looks at one process: capabilities, seccomp, namespaces, descriptors.
func checkProcess(t *testing.T, h *host, c confinement, mayHave uint64, namespaces []string) {
	t.Helper()
	name := c.role + " " + strconv.Itoa(c.pid)
	if beyond := c.capabilities &^ mayHave; beyond != 0 {
		t.Errorf("%s has capabilities %#x beyond those that it may have", name, beyond)
	}
	for _, set := range []string{"CapPrm", "CapInh", "CapAmb", "CapBnd"} {
		if value, err := strconv.ParseUint(c.status(set), 16, 64); err != nil || value&^mayHave != 0 {
			t.Errorf("%s: %s is %s", name, set, c.status(set))
		}
	}
	if got := c.status("Seccomp"); got != "2" {
		t.Errorf("%s: seccomp mode %s, want 2 (filter)", name, got)
	}
	if got := c.status("NoNewPrivs"); got != "1" {
		t.Errorf("%s: NoNewPrivs %s, want 1", name, got)
	}
	for _, namespace := range namespaces {
		own, _ := os.Readlink("/proc/self/ns/" + namespace)
		if theirs := c.link("ns", namespace); theirs == "" || theirs == own {
			t.Errorf("%s is in the host's %s namespace %s", name, namespace, own)
		}
	}
	entries, err := os.ReadDir(c.file("fd"))
	if err != nil {
		t.Fatal(err)
	}
	own := []string{
		h.path("confined.log"),                            // stdio, as it was given
		filepath.Join(h.state, "confined", "sandbox.log"), // what the process itself has to say
		filepath.Join(h.state, "confined", "exit.json"),   // how the container ended
	}
	for _, entry := range entries {
		target := c.link("fd", entry.Name())
		switch {
		case harmlessDescriptor.MatchString(target), slices.Contains(own, target):
		case servedDescriptor.MatchString(target):
			// The rootfs is read-only, so that what the gofer hands to the sandbox must be.
			if c.role == "sandbox" && !c.readOnly(entry.Name()) {
				t.Errorf("%s may write through descriptor %s: %s", name, entry.Name(), target)
			}
		default:
			t.Errorf("%s has descriptor %s: %s", name, entry.Name(), target)
		}
	}
}

// readOnly says whether a descriptor was opened for reading only, or for its name alone.
func (p process) readOnly(fd string) bool {
	content, err := os.ReadFile(p.file("fdinfo", fd))
	if err != nil {
		return true // closed by now
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return err == nil && (flags&syscall.O_ACCMODE == syscall.O_RDONLY)
		}
	}
	return false
}
