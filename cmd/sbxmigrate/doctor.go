package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newDoctorCommand(c *cli) *cobra.Command {
	var opts tableOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can and cannot do, and what follows",
		Long: `Try what sandboxes need of this host, and say of each what follows where it is
missing. The exit status is not 0 when something essential is.`,
		Example: "  sbxmigrate doctor\n  sbxmigrate doctor --json | jq '.[] | select(.ok | not)'",
		Args:    exactArgs(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), c, opts)
		},
	}
	opts.addFlags(cmd.Flags(), false)
	return cmd
}

// A check tries one thing.
type check struct {
	name      string
	essential bool
	// probe returns what was found; the error is why it is missing.
	probe func(context.Context) (fact string, err error)
	// without is what follows where it is missing.
	without string
}

// A finding is what a check found.
type finding struct {
	Name      string `json:"name"`
	OK        bool   `json:"ok"`
	Essential bool   `json:"essential"`
	Fact      string `json:"fact"`
	Follows   string `json:"follows,omitempty"` // only where it is missing
}

func (c check) run(ctx context.Context) finding {
	f := finding{Name: c.name, OK: true, Essential: c.essential}
	var err error
	if f.Fact, err = c.probe(ctx); err != nil {
		f.OK, f.Fact, f.Follows = false, err.Error(), c.without
	}
	return f
}

func runDoctor(ctx context.Context, c *cli, opts tableOptions) error {
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	var findings []finding
	var missing []string
	for _, check := range hostChecks() {
		f := check.run(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		findings = append(findings, f)
		if !f.OK && f.Essential {
			missing = append(missing, f.Name)
		}
	}
	if err := c.printFindings(findings, opts); err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", errUnfit, strings.Join(missing, ", "))
	}
	return nil
}

func (c *cli) printFindings(findings []finding, opts tableOptions) error {
	if opts.json {
		return c.printJSON(findings)
	}
	rows := make([]string, len(findings))
	for i, f := range findings {
		rows[i] = fmt.Sprintf("%s\t%s\t%s", f.Name, verdict(f), f.Fact)
		if f.Follows != "" {
			rows[i] += "; " + f.Follows
		}
	}
	return printTable(c.stdout, "CHECK\tRESULT\tFOUND", rows)
}

func verdict(f finding) string {
	switch {
	case f.OK:
		return "ok"
	case f.Essential:
		return "MISSING"
	default:
		return "missing"
	}
}
