package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/pflag"
)

// tableOptions choose between a table for people and JSON for programs.
type tableOptions struct {
	format string
	json   bool
}

const (
	formatTable = "table"
	formatJSON  = "json"
)

// addFlags adds --json, and runc's --format where withFormat is set.
func (o *tableOptions) addFlags(f *pflag.FlagSet, withFormat bool) {
	o.format = formatTable
	f.BoolVar(&o.json, "json", false, "print JSON, errors included")
	if withFormat {
		f.StringVarP(&o.format, "format", "f", formatTable, "`how` to print: table or json, as runc does")
	}
}

func (o *tableOptions) check() error {
	if o.format != formatTable && o.format != formatJSON {
		return usageError("--format is %q, want table or json", o.format)
	}
	return nil
}

// printTable prints rows under a heading. Cells are separated by tabs and may
// come from inside a sandbox: what could move a terminal's cursor is escaped.
func printTable(w io.Writer, heading string, rows []string) error {
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range append([]string{heading}, rows...) {
		if _, err := fmt.Fprintln(table, printable(row)); err != nil {
			return err
		}
	}
	return table.Flush()
}

// printable escapes what could move a terminal's cursor or turn its text around, except the tab.
func printable(text string) string { return escape(text, "\t") }

// printableLines is printable for a text of several lines.
func printableLines(text string) string { return escape(text, "\t\n") }

// escape escapes control characters except those in keep. Bytes that are no text become U+FFFD.
func escape(text, keep string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case strings.ContainsRune(keep, r):
			b.WriteRune(r)
		case unicode.IsControl(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		case unicode.Is(unicode.Bidi_Control, r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
