// Package early does what a command must do first, before the other packages of
// the program are initialised: that takes 10 ms, half of it waiting for the host's
// kernel, and a sandbox process can start meanwhile.
//
// Likewise a sandbox process, which is the same program, empties its capability bounding
// set here: that stops each of its threads forty times, and there will be more of them.
// And a command that runs no other program does not wait for the host's kernel at all.
//
// The command looks at its line only so far as to say whether a sandbox process
// will be needed. A wrong guess costs a process that is ended unused.
package early

import (
	"os"
	"slices"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Go initialises packages in order of their import paths, those that one needs
// first: this one needs nothing but the standard library, and so comes before
// gVisor's.
func init() {
	if len(os.Args) > 1 && os.Args[1] == spare.Subcommand && spare.Check() == nil {
		// Where it fails, the sandbox process fails later, and says so.
		spare.LimitBoundingSet(0)
		return
	}
	command, args := commandOf(os.Args[1:])
	if slices.Contains(alone, command) {
		spare.SkipBarrierRegistration()
	} else if id, ok := sandboxOf(command, args); ok {
		spare.Prepare(id)
	}
}

// starting are the commands that need a sandbox process.
var starting = []string{"run", "create", "restore"}

// alone are commands that run no hooks nor any other program than this one.
var alone = []string{"checkpoint", "events", "exec", "kill", "list", "ls", "pause", "ps", "resume", "state", "update", "wait"}

// valued are the global options that take a value.
var valued = []string{"--root", "--log", "--log-format"}

// commandOf returns the command of a command line, empty if there is none, and what follows it.
func commandOf(args []string) (command string, rest []string) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if slices.Contains(valued, args[0]) {
			args = args[1:]
		}
		if len(args) > 0 {
			args = args[1:]
		}
	}
	if len(args) == 0 {
		return "", nil
	}
	return args[0], args[1:]
}

// sandboxOf says whether a command will need a new sandbox process of the default
// platform, and for which sandbox most likely: IDs come last as a rule. Where the last
// argument cannot be one, nothing is prepared.
func sandboxOf(command string, args []string) (id string, ok bool) {
	if len(args) == 0 || !slices.Contains(starting, command) {
		return "", false
	}
	for _, arg := range args {
		if arg == "-h" || arg == "--help" || strings.HasPrefix(arg, "--platform") || strings.HasPrefix(arg, "--sandbox") {
			return "", false
		}
	}
	id = args[len(args)-1]
	if !isID(id) {
		return "", false
	}
	return id, true
}

// maxIDBytes is that of package sandbox.
const maxIDBytes = 128

// isID says whether s is an ID as package sandbox has them, and no option. That package
// is not asked: it is initialised too late.
func isID(s string) bool {
	if s == "" || len(s) > maxIDBytes || s[0] == '-' || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("_+.-", rune(c)) {
			return false
		}
	}
	return true
}
