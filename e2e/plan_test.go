package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A finding is one line of what plan says, as JSON.
type finding struct {
	Code    string `json:"code"`
	Subject string `json:"subject"` // "mount DESTINATION", among others
	Remedy  string `json:"remedy"`
}

// A savedCounter is an image of a sandbox with many mounts, and the bundle that fits it.
type savedCounter struct {
	from, to  *host
	image     string
	bundle    guest.Bundle
	elsewhere string // another directory, empty
	file      string // not a directory
}

func saveCounter(t *testing.T) *savedCounter {
	t.Helper()
	s := &savedCounter{from: newHost(t), to: newHost(t)}
	s.image = s.from.path("images") + ":counter"
	s.elsewhere = s.to.directory("elsewhere")
	s.file = s.to.file("file", "a file")
	tmpfs := func(destination string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}}
	}
	data := dataDir(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := os.Mkdir(data+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := startCounter(t, s.from, "counter", guest.Bundle{Mounts: []specs.Mount{
		guest.Bind(data+"/a", "/mnt/a"), guest.Bind(data+"/b", "/mnt/b", "ro"), guest.Bind(data+"/c", "/mnt/c"), guest.Bind(data+"/d", "/mnt/d"),
		tmpfs("/mnt/e"), tmpfs("/mnt/f"),
	}})
	s.bundle = c.bundle
	s.from.must("checkpoint", "counter", "--image", s.image)
	return s
}

// with writes a bundle with changes to what was saved, and returns its directory.
func (s *savedCounter) with(name string, mistakes ...func([]specs.Mount) []specs.Mount) string {
	b := s.bundle
	b.Mounts = slices.Clone(b.Mounts)
	for _, mistake := range mistakes {
		b.Mounts = mistake(b.Mounts)
	}
	return s.to.bundle(name, b)
}

// change edits the mount on a destination.
func change(destination string, edit func(*specs.Mount)) func([]specs.Mount) []specs.Mount {
	return func(mounts []specs.Mount) []specs.Mount {
		i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == destination })
		edit(&mounts[i])
		return mounts
	}
}

// plan returns what plan says of a bundle, and how it exits.
func (s *savedCounter) plan(to *host, bundle string, flags ...string) ([]finding, int) {
	to.t.Helper()
	r := to.try(append([]string{"plan", "--json", s.image, bundle}, flags...)...)
	var said struct {
		Findings []finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &said); err != nil {
		to.t.Fatalf("plan --json: %v: %v", err, r)
	}
	return said.Findings, r.code
}

// mistakes, each of another kind, and what plan has to say of it.
func (s *savedCounter) mistakes() map[string]struct {
	code, destination string
	make              func([]specs.Mount) []specs.Mount
} {
	type mistake = struct {
		code, destination string
		make              func([]specs.Mount) []specs.Mount
	}
	return map[string]mistake{
		"missing": {"E_ENV_MISSING", "/mnt/f", func(m []specs.Mount) []specs.Mount {
			return slices.DeleteFunc(m, func(m specs.Mount) bool { return m.Destination == "/mnt/f" })
		}},
		"left over": {"E_ENV_LEFT_OVER", "/var/data", func(m []specs.Mount) []specs.Mount {
			return append(m, specs.Mount{Destination: "/var/data", Type: "tmpfs", Source: "tmpfs"})
		}},
		"type": {"E_ENV_TYPE", "/mnt/a", change("/mnt/a", func(m *specs.Mount) {
			*m = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}
		})},
		"became writable": {"E_ENV_BECAME_WRITABLE", "/mnt/b", change("/mnt/b", func(m *specs.Mount) { m.Options = []string{"rbind", "rw"} })},
		"source missing":  {"E_ENV_SOURCE_MISSING", "/mnt/c", change("/mnt/c", func(m *specs.Mount) { m.Source += "/nowhere" })},
		"source kind":     {"E_ENV_SOURCE_KIND", "/mnt/d", change("/mnt/d", func(m *specs.Mount) { m.Source = s.file })},
		"options":         {"E_ENV_OPTIONS", "/mnt/e", change("/mnt/e", func(m *specs.Mount) { m.Options = []string{"size=2m"} })},
	}
}

// Seven mistakes are seven findings in one go, each with what to do about it, and nothing is started.
func TestPlanShowsAllFindings(t *testing.T) {
	s := saveCounter(t)
	if findings, code := s.plan(s.to, s.with("right")); code != 0 || len(findings) != 0 {
		t.Fatalf("a bundle that fits: exit status %d, %v", code, findings)
	}

	var all []func([]specs.Mount) []specs.Mount
	want := map[string]string{}
	for _, m := range s.mistakes() {
		all = append(all, m.make)
		want["mount "+m.destination] = m.code
	}
	bundle := s.with("seven", all...)
	findings, code := s.plan(s.to, bundle)
	if code == 0 {
		t.Error("plan succeeds with seven mistakes")
	}
	got := map[string]string{}
	for _, f := range findings {
		got[f.Subject] = f.Code
		if f.Remedy == "" {
			t.Errorf("%s on %s has no remedy", f.Code, f.Subject)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(findings) != len(want) {
		t.Errorf("%d findings, by subject (-want +got):\n%s", len(findings), diff)
	}
	nothingRuns(t)
	s.to.refuses("restore", "--detach", "--image", s.image, "--bundle", bundle, "copy")
	nothingRuns(t)
}

// plan exits as restore does, whatever is wrong and under every policy.
func TestPlanAgreesWithRestore(t *testing.T) {
	s := saveCounter(t)
	s.agrees(t, "right", s.with("right"), true)
	for name, m := range s.mistakes() {
		s.agrees(t, name, s.with(name, m.make), false)
		s.agrees(t, name+", relaxed", s.with(name+" relaxed", m.make), name == "left over", "--policy", "relaxed")
	}
	moved := s.with("moved", change("/mnt/c", func(m *specs.Mount) { m.Source = s.elsewhere }))
	s.agrees(t, "moved", moved, false)
	s.agrees(t, "moved, relaxed", moved, true, "--policy", "relaxed")
	s.agrees(t, "mapped", s.with("mapped"), true, "--map", "/mnt/c="+s.elsewhere)
	s.agrees(t, "mapped to nowhere", s.with("mapped"), false, "--map", "/mnt/c="+s.elsewhere+"/nowhere")
	s.agrees(t, "mapping of nothing", s.with("mapped"), false, "--map", "/mnt/nothing="+s.elsewhere)
}

// agrees fails unless plan and restore both accept or both refuse.
func (s *savedCounter) agrees(t *testing.T, name, bundle string, accepts bool, flags ...string) {
	t.Run(name, func(t *testing.T) {
		to := s.to.as(t)
		findings, planned := s.plan(to, bundle, flags...)
		restored := to.launch("copy", append([]string{"restore", "--detach", "--image", s.image, "--bundle", bundle, "copy"}, flags...)...)
		if (planned == 0) != accepts || (restored.code == 0) != accepts {
			t.Errorf("accepted should be %v; plan exits with %d: %v; restore: %v", accepts, planned, findings, restored)
		}
		if restored.code == 0 {
			defer nothingRuns(t)
			defer to.try("delete", "--force", "copy") // also if it does not count on, for the tests that follow
			(&counter{host: to, id: "copy"}).countsOn()
			return
		}
		nothingRuns(t)
	})
}
