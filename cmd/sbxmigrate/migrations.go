package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/migrate"
)

type migrationsOptions struct {
	dataOptions
	tableOptions
	all bool
}

func newMigrationsCommand(c *cli) *cobra.Command {
	var opts migrationsOptions
	cmd := &cobra.Command{
		Use:   "migrations",
		Short: "List migrations that are under way or need a decision",
		Long: `List migrations from and to this host that are under way or need a decision, as this
host's journals have them. An attempt that is handed-over on its source stays so until
the target has answered; where it never will, see the resolve command.`,
		Example: "  sbxmigrate migrations --all",
		Args:    exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runMigrations(cmd.Context(), c, opts)
		},
	}
	opts.dataOptions.addFlags(cmd.Flags())
	opts.tableOptions.addFlags(cmd.Flags(), false)
	cmd.Flags().BoolVarP(&opts.all, "all", "a", false, "list the last attempt of every sandbox, those that are over included")
	return cmd
}

func runMigrations(ctx context.Context, c *cli, opts migrationsOptions) error {
	all, err := migrate.List(ctx, opts.journals(), opts.sockets())
	if err != nil {
		return err
	}
	shown := []migrate.Standing{}
	rows := []string{}
	for _, s := range all {
		if !opts.all && !s.Open {
			continue
		}
		shown = append(shown, s)
		phase := "-"
		if s.Live != nil {
			phase = string(s.Live.Phase)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s", s.Sandbox, s.Last.Role, s.Last.State, phase,
			s.Last.Peer, s.Last.Epoch, s.Last.Time.Local().Format(time.DateTime), s.Last.Attempt))
	}
	if opts.json {
		return c.printJSON(shown)
	}
	return printTable(c.stdout, "SANDBOX\tHOST IS\tSTATE\tPHASE\tPEER\tEPOCH\tSINCE\tATTEMPT", rows)
}
