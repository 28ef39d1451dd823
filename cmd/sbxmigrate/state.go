package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// containerState is the state of the runtime specification with what runc adds
// to it.
type containerState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"` // 0 if stopped
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
	// Sandbox is the ID of the sandbox that a further container is in, and Name what
	// it is called there.
	Sandbox string `json:"sandbox,omitempty"`
	Name    string `json:"name,omitempty"`
}

func newStateCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "state ID",
		Short:             "Print a sandbox's state as the OCI runtime specification has it",
		Example:           "  sbxmigrate state redis | jq -r .status",
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runState(cmd.Context(), c, args[0])
		},
	}
}

func runState(ctx context.Context, c *cli, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	return c.printJSON(describe(ctx, s))
}

func describe(ctx context.Context, s *sandbox.Sandbox) containerState {
	state := s.State(ctx)
	described := containerState{
		Version: state.Version, ID: state.ID, PID: state.Pid, Status: state.Status, Bundle: state.Bundle,
		Created: s.Created, Annotations: state.Annotations, Owner: "root",
		Sandbox: s.SandboxID, Name: s.Name,
	}
	// A sandbox whose specification is lost still has a state.
	if spec, err := s.Spec(); err == nil && spec.Root != nil {
		described.Rootfs = spec.Root.Path
		if !filepath.IsAbs(described.Rootfs) {
			described.Rootfs = filepath.Join(s.Bundle, described.Rootfs)
		}
	}
	return described
}

// printJSON prints a result as indented JSON.
func (c *cli) printJSON(v any) error {
	encoder := json.NewEncoder(c.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}
