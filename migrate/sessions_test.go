package migrate

import (
	"testing"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

func TestCovers(t *testing.T) {
	root := boot.Session{Name: "root", FDs: []int{0, 1, 2}}
	exec := boot.Session{Name: "root/exec/1", FDs: []int{0, 1, 2}}
	for _, c := range []struct {
		name           string
		planned, saved []boot.Session
		want           bool
	}{
		{"nothing", nil, nil, true},
		{"the same", []boot.Session{root, exec}, []boot.Session{exec, root}, true},
		{"an exec ended", []boot.Session{root, exec}, []boot.Session{root}, true},
		{"a stream was closed", []boot.Session{root}, []boot.Session{{Name: "root", FDs: []int{1}}}, true},
		{"an exec came", []boot.Session{root}, []boot.Session{root, exec}, false},
		{"another exec", []boot.Session{root, exec}, []boot.Session{root, {Name: "root/exec/2", FDs: []int{0, 1, 2}}}, false},
		{"a stream more", []boot.Session{root}, []boot.Session{{Name: "root", FDs: []int{0, 1, 2, 3}}}, false},
	} {
		if got := covers(c.planned, c.saved); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
