package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
)

type resolveOptions struct {
	dataOptions
	here, elsewhere bool
}

func newResolveCommand(c *cli) *cobra.Command {
	var opts resolveOptions
	cmd := &cobra.Command{
		Use:   "resolve ID --here|--elsewhere",
		Short: "Decide where a sandbox is whose migration cannot end by itself",
		Long: `Decide where a sandbox is whose migration cannot end by itself: it was handed over, and
the other host is gone, or has lost what it was given.

--here makes the paused copy on this host the sandbox: it goes on. Make sure first that
the other host's copy never runs again, or there are two. --elsewhere ends what this
host has of it.`,
		Example: `  sbxmigrate migrations
  sbxmigrate resolve --here web          the other host burnt down`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runResolve(cmd.Context(), c, opts, args[0])
		},
	}
	opts.dataOptions.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.here, "here", false, "the copy on this host is the sandbox")
	cmd.Flags().BoolVar(&opts.elsewhere, "elsewhere", false, "the sandbox is not on this host any more")
	return cmd
}

func runResolve(ctx context.Context, c *cli, opts resolveOptions, id string) error {
	choice := journal.GiveUpHere
	switch {
	case opts.here == opts.elsewhere:
		return usageError("say one of --here and --elsewhere")
	case opts.here:
		choice = journal.KeepHere
	}
	state, err := migrate.Resolve(ctx, c.sandboxes(), opts.journals(), id, choice)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%s: %s\n", id, state)
	return err
}
