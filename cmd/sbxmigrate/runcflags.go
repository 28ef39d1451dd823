package main

import (
	"slices"

	"github.com/spf13/pflag"
)

// Container managers give runc flags that choose what CRIU does. A sandbox is always saved and restored whole, so most of them ask
// for what happens anyway; the names are those of runc 1.1, as containerd's shim passes them on.

// addIgnoredFlags adds runc's flags that mean nothing here: there is no host
// process to pivot, and no key ring inside.
func addIgnoredFlags(f *pflag.FlagSet) {
	for _, name := range []string{"no-pivot", "no-new-keyring", "no-subreaper"} {
		f.Bool(name, false, "")
		f.MarkHidden(name)
	}
}

// addIgnoredGlobalFlags adds runc's global flag that says who manages cgroups: the host's cgroup file system is used directly in
// either case, and linux.cgroupsPath is taken in both forms.
func addIgnoredGlobalFlags(f *pflag.FlagSet) {
	const name = "systemd-cgroup"
	f.Bool(name, false, "")
	f.MarkHidden(name)
}

// criuFlags are runc's flags of checkpoint and restore.
type criuFlags struct {
	preDump    bool
	lazyPages  bool
	pageServer string
	parentPath string
	statusFD   int
}

func (o *criuFlags) addFlags(f *pflag.FlagSet) {
	// Connections, locks, sockets and terminals belong to the sandbox's own kernel and are saved with it; its cgroup is the bundle's.
	for _, name := range []string{"tcp-established", "tcp-skip-in-flight", "ext-unix-sk", "shell-job", "file-locks", "link-remap", "auto-dedup"} {
		f.Bool(name, false, "")
		f.MarkHidden(name)
	}
	for _, name := range []string{"manage-cgroups-mode", "lsm-profile", "lsm-mount-context"} {
		f.String(name, "", "")
		f.MarkHidden(name)
	}
	f.StringArray("empty-ns", nil, "")
	f.BoolVar(&o.preDump, "pre-dump", false, "")
	f.BoolVar(&o.lazyPages, "lazy-pages", false, "")
	f.StringVar(&o.pageServer, "page-server", "", "")
	f.StringVar(&o.parentPath, "parent-path", "", "")
	f.IntVar(&o.statusFD, "status-fd", -1, "")
	for _, name := range []string{"empty-ns", "pre-dump", "lazy-pages", "page-server", "parent-path", "status-fd"} {
		f.MarkHidden(name)
	}
}

// check refuses what a manager would wait for in vain.
func (o *criuFlags) check() error {
	switch {
	case o.preDump || o.parentPath != "":
		return usageError("--pre-dump and --parent-path are CRIU's: use --leave-running, which copies memory while the sandbox runs")
	case o.pageServer != "" || o.lazyPages || o.statusFD >= 0:
		return usageError("--page-server, --lazy-pages and --status-fd are CRIU's: use the migrate command; restore always loads pages as they are needed")
	}
	return nil
}

// runcSpelling rewrites the one flag that containerd's shim gives with a single dash, which runc's parser takes.
func runcSpelling(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		switch arg {
		case "--":
			return args
		case "-no-subreaper":
			args[i] = "-" + arg
		}
	}
	return args
}
