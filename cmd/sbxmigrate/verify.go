package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/image"
)

func newVerifyCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "verify IMAGE",
		Short:   "Read every byte of an image and check it",
		Example: "  sbxmigrate verify /var/lib/images:web",
		Args:    exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd.Context(), args[0], func(ref image.Reference, img *image.Image) error {
				if err := img.Verify(cmd.Context()); err != nil {
					return err
				}
				fmt.Fprintf(c.stdout, "%s: all %s are as they were written\n", ref, bytesText(uint64(img.Stats().TotalBytes)))
				return nil
			})
		},
	}
}
