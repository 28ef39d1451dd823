package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
)

// Every command explains itself: a summary, an example, and its own way to run.
func TestCommandsExplainThemselves(t *testing.T) {
	root := newRootCommand(&cli{stdout: io.Discard, stderr: io.Discard})
	for _, cmd := range append(root.Commands(), root) {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		switch {
		case cmd.Short == "":
			t.Errorf("%s has no summary", cmd.Name())
		case cmd.Example == "":
			t.Errorf("%s has no example", cmd.Name())
		case cmd.RunE == nil:
			t.Errorf("%s does nothing", cmd.Name())
		case cmd != root && cmd.GroupID == "":
			t.Errorf("%s is in no group of the help", cmd.Name())
		}
	}
}

// The flags that container managers pass are there, under runc's names.
func TestRuncFlags(t *testing.T) {
	root := newRootCommand(&cli{stdout: io.Discard, stderr: io.Discard})
	for command, flags := range map[string][]string{
		"create": {"bundle", "console-socket", "pid-file", "no-pivot", "no-new-keyring", "preserve-fds"},
		"run":    {"bundle", "console-socket", "pid-file", "no-pivot", "no-new-keyring", "preserve-fds", "detach", "no-subreaper", "keep"},
		"exec": {
			"console-socket", "cwd", "env", "tty", "user", "additional-gids", "process", "detach", "pid-file", "cap",
			"preserve-fds", "ignore-paused",
		},
		"kill": {"all"}, "delete": {"force"}, "list": {"format", "quiet"}, "ps": {"format"},
		"events": {"interval", "stats"},
		"update": {
			"resources", "blkio-weight", "cpu-period", "cpu-quota", "cpu-share", "cpuset-cpus", "cpuset-mems", "memory",
			"memory-reservation", "memory-swap", "pids-limit",
		},
		"spec": {"bundle"}, "start": nil, "state": nil, "pause": nil, "resume": nil, "features": nil,
	} {
		cmd := find(t, root, command)
		for _, flag := range append(flags, "root", "log", "log-format", "debug") {
			if cmd.Flag(flag) == nil {
				t.Errorf("%s has no flag --%s", command, flag)
			}
		}
	}
}

func find(t *testing.T, root *cobra.Command, name string) *cobra.Command {
	t.Helper()
	cmd, _, err := root.Find([]string{name})
	if err != nil || cmd == root {
		t.Fatalf("no command %s: %v", name, err)
	}
	return cmd
}
