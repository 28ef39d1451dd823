package checkpoint

import (
	"encoding/json"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// What an image says of further containers is checked before anything relies on it.
func TestReadFurther(t *testing.T) {
	good := image.Container{Name: "web", ID: "1", Spec: json.RawMessage(`{"process":{"terminal":true}}`), Mounts: json.RawMessage(`{"mounts":[],"tmp":""}`)}
	terminal := &boot.TerminalState{}
	all, err := readFurther([]image.Container{good}, map[string]*boot.TerminalState{"web": terminal})
	if err != nil || len(all) != 1 || all[0].name != "web" || all[0].id != "1" || all[0].terminal != terminal {
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
		if _, err := readFurther([]image.Container{c}, nil); err == nil {
			t.Errorf("%s: is read", name)
		}
	}
	if _, err := readFurther([]image.Container{good, good}, nil); err == nil {
		t.Error("two of one name are read")
	}
}
