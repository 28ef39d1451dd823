package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

func newPSCommand(c *cli) *cobra.Command {
	var opts tableOptions
	cmd := &cobra.Command{
		Use:   "ps ID",
		Short: "List the processes inside a sandbox",
		Long: `List the processes inside a sandbox, with their PIDs inside.

--json prints all that is known of each. --format json prints the bare PIDs, as
runc does.`,
		Example:           "  sbxmigrate ps redis",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPS(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags(), true)
	return cmd
}

func runPS(ctx context.Context, c *cli, opts tableOptions, id string) error {
	if err := opts.check(); err != nil {
		return err
	}
	s, err := c.open(id)
	if err != nil {
		return err
	}
	processes, err := s.Processes(ctx)
	if err != nil {
		return err
	}
	switch {
	case opts.json:
		return c.printJSON(processes)
	case opts.format == formatJSON:
		return c.printJSON(pids(processes))
	default:
		return printTable(c.stdout, "UID\tPID\tPPID\tPGID\tTTY\tTHREADS\tSTART\tTIME\tCMD", processRows(processes))
	}
}

func pids(processes []control.Process) []int32 {
	pids := make([]int32, len(processes))
	for i, p := range processes {
		pids[i] = p.PID
	}
	return pids
}

func processRows(processes []control.Process) []string {
	rows := make([]string, len(processes))
	for i, p := range processes {
		rows[i] = strings.Join([]string{
			fmt.Sprint(p.UID), fmt.Sprint(p.PID), fmt.Sprint(p.PPID), fmt.Sprint(p.PGID), p.TTY, fmt.Sprint(len(p.Threads)),
			p.Start, p.CPUTime, p.Command,
		}, "\t")
	}
	return rows
}
