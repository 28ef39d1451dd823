package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type listOptions struct {
	tableOptions
	quiet bool
}

func (o *listOptions) addFlags(f *pflag.FlagSet) {
	o.tableOptions.addFlags(f, true)
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print IDs only")
}

func newListCommand(c *cli) *cobra.Command {
	var opts listOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List this host's sandboxes",
		Example: `  sbxmigrate list
  sbxmigrate list --quiet | xargs -n1 sbxmigrate delete --force`,
		Args: exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runList(cmd.Context(), c, opts)
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runList(ctx context.Context, c *cli, opts listOptions) error {
	if err := opts.check(); err != nil {
		return err
	}
	all, err := c.sandboxes().List()
	if err != nil {
		return err
	}
	if opts.quiet {
		for _, s := range all {
			fmt.Fprintln(c.stdout, s.ID)
		}
		return nil
	}
	states := describeAll(ctx, all)
	if opts.json || opts.format == formatJSON {
		return c.printJSON(states)
	}
	rows := make([]string, len(states))
	for i, s := range states {
		rows[i] = strings.Join([]string{
			s.ID, fmt.Sprint(s.PID), string(s.Status), s.Bundle, s.Created.Format(time.RFC3339), s.Owner,
		}, "\t")
	}
	return printTable(c.stdout, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER", rows)
}

// describeAll asks all sandboxes at once: one that is stuck costs its timeout
// once, not once for each.
func describeAll(ctx context.Context, all []*sandbox.Sandbox) []containerState {
	states := make([]containerState, len(all))
	var wait sync.WaitGroup
	for i, s := range all {
		wait.Go(func() { states[i] = describe(ctx, s) })
	}
	wait.Wait()
	return states
}
