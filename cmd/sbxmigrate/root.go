package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// run executes a command line and returns the status to exit with.
func run(args []string) int {
	// What gVisor's libraries say by the way is not for users.
	log.SetLevel(log.Warning)
	defer spare.DiscardAll()
	c := &cli{stdout: os.Stdout, stderr: os.Stderr}
	root := newRootCommand(c)
	root.SetArgs(runcSpelling(args))
	cmd, err := root.ExecuteContextC(context.Background())
	return c.finish(cmd, err)
}

// cli is what every command is given: the global options, and where to print.
// Results go to stdout; warnings and errors go through log.
type cli struct {
	stdout, stderr io.Writer

	root      string
	logPath   string
	logFormat string
	debug     bool

	log *logger
}

// sandboxes is this host's state directory.
func (c *cli) sandboxes() sandbox.Root { return sandbox.Root(c.root) }

// open finds the sandbox that a command names.
func (c *cli) open(id string) (*sandbox.Sandbox, error) { return c.sandboxes().Open(id) }

// newRootCommand is the one place that lists the commands.
func newRootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "sbxmigrate",
		Short: "Run, checkpoint, restore and live-migrate OCI bundles in a user-space-kernel sandbox",
		Example: `  sbxmigrate run --bundle ./shell shell           run a bundle in the foreground
  sbxmigrate exec -t shell /bin/sh                a shell beside it
  sbxmigrate --root /run/other list               the sandboxes of another state directory`,
		Version:       strings.TrimSpace(versionText(readVersion())),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // RunE names the unknown command
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("unknown command %q for %q", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.openLog() },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.root, "root", sandbox.DefaultRoot, "`directory` that holds the state of this host's sandboxes")
	flags.StringVar(&c.logPath, "log", "", "append warnings and errors to this `file`")
	flags.StringVar(&c.logFormat, "log-format", logFormatText, "`format` of the log, text or json")
	flags.BoolVar(&c.debug, "debug", false, "log what the sandbox's kernel does (see the logs command)")
	addIgnoredGlobalFlags(flags)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.SetUsageTemplate(root.UsageTemplate() + exitStatusTemplate())
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)

	root.AddGroup(
		&cobra.Group{ID: groupLife, Title: "Life of a sandbox:"},
		&cobra.Group{ID: groupInside, Title: "Inside a sandbox:"},
		&cobra.Group{ID: groupMove, Title: "Checkpoint, restore, move:"},
		&cobra.Group{ID: groupAbout, Title: "About this host and program:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupLife, newRunCommand(c), newCreateCommand(c), newStartCommand(c), newKillCommand(c), newPauseCommand(c),
		newResumeCommand(c), newWaitCommand(c), newDeleteCommand(c), newUpdateCommand(c))
	add(groupInside, newStateCommand(c), newListCommand(c), newPSCommand(c), newExecCommand(c), newAttachCommand(c), newEventsCommand(c),
		newLogsCommand(c))
	add(groupMove, newCheckpointCommand(c), newRestoreCommand(c), newPlanCommand(c), newInspectCommand(c),
		newVerifyCommand(c), newMigrateCommand(c), newMigrationsCommand(c),
		newCancelCommand(c), newResolveCommand(c), newReportCommand(c), newAgentCommand(c), newKeyCommand(c), newDemoCommand(c))
	add(groupAbout, newDoctorCommand(c), newMountsCommand(c), newFeaturesCommand(c), newSpecCommand(c), newCompletionCommand(c),
		newVersionCommand(c))
	root.AddCommand(newStandInCommand(c))
	return root
}

// The groups that help sorts the commands into.
const (
	groupLife   = "life"
	groupInside = "inside"
	groupMove   = "move"
	groupAbout  = "about"
)

// exactArgs demands n arguments and names what they are.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError("%q wants %s, got %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// idArg is for commands that take one sandbox ID and nothing else.
func idArg() cobra.PositionalArgs { return exactArgs(1, "one sandbox ID") }

// completeID offers the IDs of this host's sandboxes as the first argument.
func (c *cli) completeID(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	all, err := c.sandboxes().List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
