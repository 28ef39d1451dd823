package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

type eventsOptions struct {
	once     bool
	interval time.Duration
}

func (o *eventsOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.once, "stats", false, "print one sample and end")
	f.DurationVar(&o.interval, "interval", 5*time.Second, "time between samples")
}

func newEventsCommand(c *cli) *cobra.Command {
	var opts eventsOptions
	cmd := &cobra.Command{
		Use:   "events [flags] ID",
		Short: "Print what a sandbox uses, one JSON object a line, until it ends",
		Example: `  sbxmigrate events --stats redis
  sbxmigrate events --interval 1s redis | jq .data.memory.usage.usage`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runEvents(cmd.Context(), c, opts, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runEvents(ctx context.Context, c *cli, opts eventsOptions, id string) error {
	if opts.interval <= 0 {
		return usageError("--interval is %v, want more than 0", opts.interval)
	}
	s, err := c.open(id)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(opts.interval)
	defer ticker.Stop()
	for {
		stats, err := s.Stats(ctx)
		if err != nil && !opts.once && hasEnded(ctx, s, err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.printEvent(s, stats); err != nil || opts.once {
			return err
		}
		<-ticker.C
	}
}

// endPatience is how long a sandbox process may take to end that does not answer any more.
const endPatience = 2 * time.Second

// hasEnded says whether the sandbox has ended, which is why a sample failed. The socket
// of a killed process goes a moment before the process.
func hasEnded(ctx context.Context, s *sandbox.Sandbox, err error) bool {
	if !errors.Is(err, control.ErrUnreachable) {
		return s.Status(ctx) == specs.StateStopped
	}
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	return poll(ctx, func() bool { return s.Status(ctx) == specs.StateStopped }) == nil
}

// event is one line, in runc's shape: what a sandbox's kernel does not count is
// zero or missing.
type event struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Data eventData `json:"data"`
}

type eventData struct {
	CPU    eventCPU    `json:"cpu"`
	Memory eventMemory `json:"memory"`
	PIDs   eventPIDs   `json:"pids"`
}

type eventCPU struct {
	Usage struct {
		Total uint64 `json:"total"` // nanoseconds
	} `json:"usage"`
}

type eventMemory struct {
	Cache uint64 `json:"cache"` // bytes, as all here
	Usage struct {
		Limit uint64 `json:"limit"`
		Usage uint64 `json:"usage"`
	} `json:"usage"`
	Raw map[string]uint64 `json:"raw"`
}

type eventPIDs struct {
	Current int `json:"current"`
}

func newEvent(id string, stats *control.Stats) event {
	e := event{Type: "stats", ID: id}
	e.Data.CPU.Usage.Total = stats.CPUNanos
	e.Data.Memory.Cache = stats.MemoryByKind["pagecache"]
	e.Data.Memory.Usage.Limit = stats.MemoryLimit
	e.Data.Memory.Usage.Usage = stats.MemoryUsage
	e.Data.Memory.Raw = stats.MemoryByKind
	e.Data.PIDs.Current = stats.PIDs
	return e
}

func (c *cli) printEvent(s *sandbox.Sandbox, stats *control.Stats) error {
	return json.NewEncoder(c.stdout).Encode(newEvent(s.ID, stats))
}
