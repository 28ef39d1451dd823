package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/mounts"
)

func newInspectCommand(c *cli) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect [flags] IMAGE",
		Short: "Show what an image has in it",
		Long: `Show what an image has in it: what was saved and by what, processes, mounts,
memory, and where the bytes are. Digests are checked of what is read for that;
verify checks all.`,
		Example: "  sbxmigrate inspect /var/lib/images:web",
		Args:    exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd.Context(), args[0], func(ref image.Reference, img *image.Image) error {
				return runInspect(c.stdout, ref, img, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, errors included")
	return cmd
}

// inspection is what inspect shows.
type inspection struct {
	Reference string        `json:"reference"`
	Digest    string        `json:"digest"`
	Config    *image.Config `json:"config"`
	Stats     image.Stats   `json:"stats"`
	Ratio     float64       `json:"ratio"`
}

func runInspect(w io.Writer, ref image.Reference, img *image.Image, asJSON bool) error {
	in := inspection{Reference: ref.String(), Digest: img.Manifest().Digest.String(), Config: img.Config(), Stats: img.Stats()}
	in.Ratio = in.Stats.Ratio()
	if asJSON {
		return printJSON(w, in)
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	showOrigin(table, in)
	showMemory(table, in)
	if err := showInside(table, in.Config); err != nil {
		return err
	}
	fmt.Fprintln(table, "\nLAYER\tBYTES\tUNCOMPRESSED\tDIGEST")
	for _, l := range in.Stats.Layers {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Kind, bytesText(uint64(l.Bytes)), bytesText(l.RawBytes), l.Digest)
	}
	return table.Flush()
}

func showOrigin(w io.Writer, in inspection) {
	c := in.Config
	fmt.Fprintf(w, "image\t%s\n", in.Reference)
	fmt.Fprintf(w, "digest\t%s\n", in.Digest)
	fmt.Fprintf(w, "sandbox\t%q, saved %s\n", c.SandboxID, c.Time.Format(time.RFC3339))
	fmt.Fprintf(w, "build\t%s\n", c.Build)
	fmt.Fprintf(w, "gVisor\t%s\n", c.GVisor)
	fmt.Fprintf(w, "CPU\t%s, %d features, cache line %d B, extended state %d B\n",
		c.Arch, len(c.CPU.Features), c.CPU.CacheLineBytes, c.CPU.XSAVEBytes)
}

func showMemory(w io.Writer, in inspection) {
	s := in.Stats
	pages := func(n uint64) string { return bytesText(n * image.PageBytes) }
	fmt.Fprintf(w, "memory\t%s in use: %s stored, %s zero, %s equal to others\n",
		pages(s.PagesCommitted), pages(s.PagesDistinct), pages(s.PagesZero), pages(s.PagesDuplicate))
	fmt.Fprintf(w, "kernel state\t%s (%s uncompressed)\n", bytesText(uint64(s.StateBytes)), bytesText(s.StateRawBytes))
	fmt.Fprintf(w, "image size\t%s, %.2f of the memory in use\n", bytesText(uint64(s.TotalBytes)), in.Ratio)
}

func showInside(w io.Writer, c *image.Config) error {
	var processes []inside.Process
	if err := json.Unmarshal(c.Processes, &processes); err != nil {
		return fmt.Errorf("image config: processes: %w", err)
	}
	fmt.Fprintln(w, "\nPID\tPPID\tTHREADS\tCOMMAND")
	for _, p := range processes {
		fmt.Fprintf(w, "%d\t%d\t%d\t%q\n", p.PID, p.PPID, p.Threads, p.Command)
	}
	for i, container := range c.Containers {
		from := container.Mounts
		if i == 0 {
			from = c.Mounts
		}
		var list mounts.List
		if err := json.Unmarshal(from, &list); err != nil {
			return fmt.Errorf("image config: mounts: %w", err)
		}
		if len(c.Containers) > 1 {
			fmt.Fprintf(w, "\ncontainer\t%q", container.Name)
		}
		fmt.Fprintln(w, "\nMOUNT\tFILESYSTEM\tDEVICE\tOPTIONS")
		for _, m := range list.Mounts {
			fmt.Fprintf(w, "%q\t%s\t%q\t%q\n", m.Destination, m.Filesystem, m.Device, m.Data)
		}
	}
	return nil
}
