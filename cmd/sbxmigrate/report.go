package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type reportOptions struct {
	dataOptions
	html, json bool
}

func newReportCommand(c *cli) *cobra.Command {
	var opts reportOptions
	cmd := &cobra.Command{
		Use:   "report ID",
		Short: "Print the report of a sandbox's last migration away from this host",
		Long: `Print the report of a sandbox's last migration away from this host: how long each phase
took, what each round sent, and how it ended. It is kept until the next one.`,
		Example: `  sbxmigrate report web
  sbxmigrate report --html web >web.html      one page with everything in it`,
		Args: idArg(),
		RunE: func(_ *cobra.Command, args []string) error { return runReport(c, opts, args[0]) },
	}
	opts.dataOptions.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.html, "html", false, "print a page for a browser")
	cmd.Flags().BoolVar(&opts.json, "json", false, "print JSON")
	return cmd
}

func runReport(c *cli, opts reportOptions, id string) error {
	if filepath.Base(id) != id {
		return fmt.Errorf("%w: %q", sandbox.ErrBadID, id)
	}
	f, err := os.Open(filepath.Join(opts.reports(), id+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no migration of %q is on record", sandbox.ErrNotFound, id)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	report, err := migrate.ReadReport(f)
	switch {
	case err != nil:
		return err
	case opts.html:
		return migrate.WritePage(c.stdout, report)
	case opts.json:
		return migrate.WriteReport(c.stdout, report)
	}
	return printReport(c, report)
}

func printReport(c *cli, r migrate.Report) error {
	fmt.Fprintf(c.stdout, "%s to %s (%s), %s: %s\n", r.Sandbox, r.Peer, r.Address, r.Began.Local().Format(time.DateTime), r.Outcome)
	if r.Reason != "" {
		fmt.Fprintf(c.stdout, "  %s\n", printable(r.Reason))
	}
	for _, p := range r.Phases {
		fmt.Fprintf(c.stdout, "%12s  %s\n", milliseconds(time.Duration(p.Nanoseconds)), p.Phase)
	}
	fmt.Fprintf(c.stdout, "%12s  total\n%12s  of it the sandbox stood still\n", milliseconds(time.Duration(r.Total)), milliseconds(time.Duration(r.Downtime)))
	rows := []string{}
	for _, round := range r.Rounds {
		rows = append(rows, fmt.Sprintf("%d\t%s\t%s\t%d\t%d\t%d\t%s\t%d%%\t%s", round.Number, round.Tracker, milliseconds(time.Duration(round.Nanoseconds)),
			round.PagesScanned, round.PagesSent, round.PagesZero, bytesText(round.WireBytes), round.ThrottlePercent, round.Decision))
	}
	if len(rows) > 0 {
		if err := printTable(c.stdout, "ROUND\tFOUND BY\tTIME\tPAGES\tSENT\tZERO\tBYTES\tTHROTTLED\tTHEN", rows); err != nil {
			return err
		}
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(c.stdout, "note: %s\n", printable(w))
	}
	return nil
}
