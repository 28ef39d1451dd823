package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newStartCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "start ID",
		Short:             "Let a created sandbox run",
		Example:           "  sbxmigrate start redis",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStart(cmd.Context(), c, args[0])
		},
	}
}

func runStart(ctx context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	return s.Start(ctx)
}
