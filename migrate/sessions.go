package migrate

import (
	"errors"
	"slices"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// errNewSession says that the saved kernel refers to streams that the plan did not name, so that the target's standby, which was started
// with the plan's, could not load it.
var errNewSession = errors.New("a process was started inside by exec while memory moved: try again, or start none meanwhile")

// covers says whether a plan named every stream that a saved kernel refers to. Those that have ended meanwhile do no harm.
func covers(planned, saved []boot.Session) bool {
	named := make(map[string][]int)
	for _, s := range planned {
		named[s.Name] = append(named[s.Name], s.FDs...)
	}
	for _, s := range saved {
		for _, fd := range s.FDs {
			if !slices.Contains(named[s.Name], fd) {
				return false
			}
		}
	}
	return true
}
