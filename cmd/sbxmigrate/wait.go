package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newWaitCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "wait ID",
		Short:             "Wait for a sandbox's container to end; print its exit status and exit with it",
		Example:           "  sbxmigrate wait job && echo it went well",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		Annotations:       passStatus(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runWait(cmd.Context(), c, args[0])
		},
	}
}

func runWait(ctx context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	status, err := s.Wait(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.stdout, status); err != nil {
		return err
	}
	return exitStatus(status)
}
