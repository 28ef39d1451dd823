package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func newLogsCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "logs ID",
		Short:             "Print what a sandbox's own processes logged (not what its container printed)",
		Example:           "  sbxmigrate logs redis",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), c, args[0])
		},
	}
}

func runLogs(_ context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	log, err := os.Open(s.LogPath())
	if err != nil {
		return fmt.Errorf("open log of sandbox %q: %w", id, err)
	}
	defer log.Close()
	_, err = io.Copy(c.stdout, log)
	return err
}
