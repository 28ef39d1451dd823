package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbxmigrate/sbxmigrate/image"
)

func TestSplitBundles(t *testing.T) {
	for _, c := range []struct {
		values  []string
		first   string
		further map[string]string
	}{
		{nil, ".", map[string]string{}},
		{[]string{"./web"}, "./web", map[string]string{}},
		{[]string{"web=./web", "./pod", "db=/b/db=1"}, "./pod", map[string]string{"web": "./web", "db": "/b/db=1"}},
		{[]string{"./odd=name"}, "./odd=name", map[string]string{}},
		{[]string{"/odd=name"}, "/odd=name", map[string]string{}},
	} {
		first, further, err := splitBundles(c.values, ".")
		if err != nil || first != c.first || !cmp.Equal(further, c.further) {
			t.Errorf("%q: %q, %v, %v; want %q, %v", c.values, first, further, err, c.first, c.further)
		}
	}
	for _, wrong := range [][]string{{"./a", "./b"}, {"web=./a", "web=./b"}} {
		if first, further, err := splitBundles(wrong, "."); err == nil {
			t.Errorf("%q: %q, %v", wrong, first, further)
		}
	}
}

func TestFurtherOptions(t *testing.T) {
	config := &image.Config{Containers: []image.Container{{Name: "root"}, {Name: "web", ID: "1"}, {Name: "db", ID: "2"}}}
	opts := furtherOptions{
		ids: []string{"db=3"}, pidFiles: []string{"web=/run/web.pid"}, consoleSockets: []string{"db=/run/s"}, outputs: []string{"web=log"},
	}
	all, err := opts.of(config)
	if err != nil {
		t.Fatal(err)
	}
	want := []furtherContainer{{name: "web", id: "1", pidFile: "/run/web.pid", output: "log"}, {name: "db", id: "3", consoleSocket: "/run/s"}}
	for i, f := range all {
		if *f != want[i] {
			t.Errorf("container %d is %+v, want %+v", i, *f, want[i])
		}
	}
	for _, wrong := range []furtherOptions{
		{ids: []string{"root=1"}}, {ids: []string{"nobody=1"}}, {outputs: []string{"web"}}, {pidFiles: []string{"web=1", "web=2"}},
	} {
		if _, err := wrong.of(config); err == nil {
			t.Errorf("%+v is accepted", wrong)
		}
	}
	if all, err := (&furtherOptions{}).of(&image.Config{Containers: config.Containers[:1]}); err != nil || len(all) != 0 {
		t.Errorf("an image of one container has further ones: %v, %v", all, err)
	}
}
