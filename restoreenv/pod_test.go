package restoreenv

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// pod compiles the containers of the golden case, and returns what their environment must be.
func pod(t *testing.T, bundle string) (environment Environment, want json.RawMessage) {
	t.Helper()
	data, err := os.ReadFile("testdata/pod.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Containers  map[string]*specs.Spec
		Environment json.RawMessage
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	environment = make(Environment)
	for _, name := range slices.Sorted(maps.Keys(golden.Containers)) {
		list, err := mounts.Compile(golden.Containers[name], mounts.Options{Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(environment, Build(name, list))
	}
	return environment, golden.Environment
}

// The environment of several containers is keyed by their names.
func TestGoldenPod(t *testing.T) {
	environment, want := pod(t, newBundle(t))
	got, err := json.Marshal(environment)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(generic(t, want), generic(t, got)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if _, err := Parse(want); err != nil {
		t.Error(err)
	}
}

// Mappings are for all containers, or for one; what names none is found.
func TestMappingsOfContainers(t *testing.T) {
	saved, _ := pod(t, newBundle(t))
	here, _ := pod(t, newBundle(t))
	all, own := t.TempDir(), t.TempDir()
	parsed, err := ParseMap([]string{"/=" + all, "web:/=" + own, "web:/data/../data=" + own, "web:/none=" + own, "nobody:/=" + own})
	if err != nil {
		t.Fatal(err)
	}
	resolution, findings := Resolve(saved, here, Options{Map: parsed})
	if diff := cmp.Diff([]string{"E_ENV_MAP_UNUSED nobody:/", "E_ENV_MAP_UNUSED web:/none"}, summary(findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	sources := make(map[string]string)
	for name := range saved {
		for _, b := range resolution.Gofer(name) {
			sources[name+b.Destination] = b.Source
		}
	}
	if diff := cmp.Diff(map[string]string{"root/": all, "web/": own, "web/data": own}, sources); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	for _, wrong := range []string{"web:data=/x", ":/=/x", "web:/=", "web:/"} {
		if _, err := ParseMap([]string{wrong}); err == nil {
			t.Errorf("mapping %q parses", wrong)
		}
	}
	if _, err := ParseMap([]string{"web:/data=/x", "web:/data/=/y"}); err == nil {
		t.Error("two mappings of one destination parse")
	}
}

// A mistake in one container's bundle is found as that container's, and leaves the others alone.
func TestMistakeInOneContainer(t *testing.T) {
	bundle := newBundle(t)
	saved, _ := pod(t, newBundle(t))
	here, _ := pod(t, bundle)
	if err := os.Remove(filepath.Join(bundle, "data")); err != nil {
		t.Fatal(err)
	}
	_, findings := Resolve(saved, here, Options{})
	if len(findings) != 1 || findings[0].Code != CodeSourceMissing || findings[0].Container != "web" {
		t.Errorf("findings are %v", findings)
	}
}
