package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

type deleteOptions struct {
	force bool
}

func (o *deleteOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.force, "force", "f", false, "end the container first if it still runs; no such sandbox is no error")
}

func newDeleteCommand(c *cli) *cobra.Command {
	var opts deleteOptions
	cmd := &cobra.Command{
		Use:     "delete [flags] ID",
		Aliases: []string{"rm"},
		Short:   "Remove a stopped sandbox, or a stopped container of one",
		Long: `Remove a stopped sandbox. One that has further containers ends with its first; the
others are stopped then, to be deleted one by one. A further container that is
deleted leaves its sandbox and the other containers as they are.`,
		Example: `  sbxmigrate delete redis
  sbxmigrate delete --force redis`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDelete(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runDelete(ctx context.Context, c *cli, opts deleteOptions, id string) error {
	s, err := c.open(id)
	if opts.force && errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Delete(ctx, opts.force)
}
