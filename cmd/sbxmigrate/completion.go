package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newCompletionCommand(c *cli) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, zsh, fish or powershell",
		Example: `  source <(sbxmigrate completion bash)
  sbxmigrate completion fish >~/.config/fish/completions/sbxmigrate.fish`,
		Args:      exactArgs(1, "one of bash, zsh, fish and powershell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompletion(cmd.Context(), c, cmd.Root(), args[0])
		},
	}
}

func runCompletion(_ context.Context, c *cli, root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(c.stdout, true)
	case "zsh":
		return root.GenZshCompletion(c.stdout)
	case "fish":
		return root.GenFishCompletion(c.stdout, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(c.stdout)
	default:
		return usageError("shell %q is not known, want bash, zsh, fish or powershell", shell)
	}
}
