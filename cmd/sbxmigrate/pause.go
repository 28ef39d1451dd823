package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newPauseCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "pause ID",
		Short:             "Stop a sandbox's tasks where they are, those of all its containers",
		Example:           "  sbxmigrate pause redis",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPause(cmd.Context(), c, args[0])
		},
	}
}

func runPause(ctx context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	if s.Further() {
		c.warn(fmt.Sprintf("container %q does not pause alone: its sandbox %q does, with all of its containers", s.ID, s.SandboxID))
	}
	return s.Pause(ctx)
}
