package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func newLogsCommand(c *cli) *cobra.Command {
	var output bool
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print what a sandbox's own processes logged, or what its container printed",
		Long: `Print what a sandbox's own processes logged. With --output, print what its container
printed since it came to this host by a migration; what the container of another
sandbox prints goes where the command that started it said.`,
		Example: `  sbxmigrate logs redis
  sbxmigrate logs --output redis`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), c, args[0], output)
		},
	}
	cmd.Flags().BoolVar(&output, "output", false, "print what the container printed, where this host keeps that")
	return cmd
}

func runLogs(_ context.Context, c *cli, id string, output bool) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	path := s.LogPath()
	if output {
		if path = s.Output; path == "" {
			return fmt.Errorf("output of sandbox %q is not kept: it went where the command that started it said", id)
		}
	}
	log, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open log of sandbox %q: %w", id, err)
	}
	defer log.Close()
	_, err = io.Copy(c.stdout, log)
	return err
}
