package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newResumeCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "resume ID",
		Short:             "Let a paused sandbox's tasks go on",
		Example:           "  sbxmigrate resume redis",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runResume(cmd.Context(), c, args[0])
		},
	}
}

func runResume(ctx context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	return s.Resume(ctx)
}
