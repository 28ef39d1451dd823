package main

import (
	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/migrate"
)

func newCancelCommand(c *cli) *cobra.Command {
	var opts dataOptions
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel the migration of a sandbox away from this host",
		Long: `Cancel the migration of a sandbox away from this host. The sandbox runs on here.
Once the sandbox is handed over to the other host it is too late, and the command
says so.`,
		Example:           "  sbxmigrate cancel web",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return migrate.Cancel(cmd.Context(), opts.sockets(), args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}
