package checkpoint

import (
	"encoding/json"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// What an image says of further containers is checked before anything relies on it.
func TestReadFurther(t *testing.T) {
	good := image.Container{Name: "web", ID: "1", Spec: json.RawMessage(`{"process":{"terminal":true}}`), Mounts: json.RawMessage(`{"mounts":[],"tmp":""}`)}
	terminal := &boot.TerminalState{}
	all, err := readFurther([]image.Container{good}, &streams{Terminals: map[string]*boot.TerminalState{"web": terminal}, Firsts: map[string]int32{"web": 7}})
	if err != nil || len(all) != 1 || all[0].name != "web" || all[0].id != "1" || all[0].terminal != terminal || all[0].pid != 7 {
		t.Fatalf("%+v, %v", all, err)
	}
	for name, edit := range map[string]func(*image.Container){
		"no name":          func(c *image.Container) { c.Name = "" },
		"the first's name": func(c *image.Container) { c.Name = boot.RootContainer },
		"no mounts":        func(c *image.Container) { c.Mounts = nil },
		"no process":       func(c *image.Container) { c.Spec = json.RawMessage(`{}`) },
		"no spec":          func(c *image.Container) { c.Spec = json.RawMessage(`[]`) },
	} {
		c := good
		edit(&c)
		if _, err := readFurther([]image.Container{c}, &streams{}); err == nil {
			t.Errorf("%s: is read", name)
		}
	}
	if _, err := readFurther([]image.Container{good, good}, &streams{}); err == nil {
		t.Error("two of one name are read")
	}
}

// A path that an image names is never served because its environment does not mention the mount.
func TestCheckEnvironment(t *testing.T) {
	served := func(destinations ...string) (list mounts.List) {
		for _, d := range destinations {
			list.Mounts = append(list.Mounts, mounts.Mount{Destination: d, Filesystem: mounts.FilesystemGofer, Source: "/etc"})
		}
		list.Mounts = append(list.Mounts, mounts.Mount{Destination: "/tmp", Filesystem: mounts.FilesystemTmpfs})
		return list
	}
	entries := func(destinations ...string) restoreenv.Sources {
		list := served(destinations...)
		return restoreenv.Build("", &list)[""]
	}
	for _, c := range []struct {
		name        string
		environment restoreenv.Environment
		ok          bool
	}{
		{"the same", restoreenv.Environment{"root": entries("/", "/a"), "web": entries("/")}, true},
		{"a container less", restoreenv.Environment{"root": entries("/", "/a")}, false},
		{"a container more", restoreenv.Environment{"root": entries("/", "/a"), "web": entries("/"), "db": entries("/")}, false},
		{"a mount less", restoreenv.Environment{"root": entries("/"), "web": entries("/")}, false},
		{"a mount more", restoreenv.Environment{"root": entries("/", "/a"), "web": entries("/", "/b")}, false},
		{"another mount", restoreenv.Environment{"root": entries("/", "/b"), "web": entries("/")}, false},
		{"another order", restoreenv.Environment{"root": entries("/a", "/"), "web": entries("/")}, false},
	} {
		s := &saved{mounts: served("/", "/a"), further: []savedContainer{{name: "web", mounts: served("/")}}, environment: c.environment}
		if err := s.checkEnvironment(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
