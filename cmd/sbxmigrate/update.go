package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// maxResourcesBytes bounds a resources file.
const maxResourcesBytes = 1 << 20

type updateOptions struct {
	resources         string
	blkioWeight       uint16
	cpuPeriod         uint64
	cpuQuota          int64
	cpuShares         uint64
	cpusetCPUs        string
	cpusetMems        string
	memory            string
	memoryReservation string
	memorySwap        string
	pidsLimit         int64
}

func (o *updateOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.resources, "resources", "r", "", "read linux.resources from this JSON `file` (- for stdin); other flags change it")
	f.Uint16Var(&o.blkioWeight, "blkio-weight", 0, "share of block I/O, 10 to 1000")
	f.Uint64Var(&o.cpuPeriod, "cpu-period", 0, "period of --cpu-quota, in `microseconds`")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "`microseconds` of CPU time in each period; -1 for no limit")
	f.Uint64Var(&o.cpuShares, "cpu-share", 0, "relative share of CPU time")
	f.StringVar(&o.cpusetCPUs, "cpuset-cpus", "", "`CPUs` to use, as in 0-3,7")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "memory `nodes` to use")
	f.StringVar(&o.memory, "memory", "", "most `bytes` of memory (K, M, G and T understood); -1 for no limit")
	f.StringVar(&o.memoryReservation, "memory-reservation", "", "`bytes` of memory to keep under pressure")
	f.StringVar(&o.memorySwap, "memory-swap", "", "most `bytes` of memory and swap; -1 for no limit")
	f.Int64Var(&o.pidsLimit, "pids-limit", 0, "most host processes; -1 for no limit")
}

func newUpdateCommand(c *cli) *cobra.Command {
	var opts updateOptions
	cmd := &cobra.Command{
		Use:   "update [flags] ID",
		Short: "Change the limits of a sandbox's cgroup",
		Example: `  sbxmigrate update --memory 2G --cpu-quota 150000 --cpu-period 100000 redis
  echo '{"memory":{"limit":1073741824}}' | sbxmigrate update --resources - redis`,
		Args:              idArg(),
		ValidArgsFunction: c.completeID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runUpdate(cmd.Context(), c, opts, cmd.Flags().Changed, args[0])
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runUpdate(_ context.Context, c *cli, opts updateOptions, given func(flag string) bool, id string) error {
	s, err := c.open(id)
	if err != nil {
		return err
	}
	resources, err := opts.linuxResources(given)
	if err != nil {
		return err
	}
	if s.Further() {
		c.warn(fmt.Sprintf("limits of container %q alone are not enforced: what it uses is charged to its sandbox %q", s.ID, s.SandboxID))
		return nil // its cgroup has its gofer
	}
	return s.Update(resources)
}

// linuxResources reads the file, if there is one, and puts the flags that were
// given over it.
func (o *updateOptions) linuxResources(given func(flag string) bool) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if o.resources != "" {
		if err := readResources(o.resources, r); err != nil {
			return nil, err
		}
	}
	o.overCPU(r, given)
	if given("blkio-weight") {
		r.BlockIO = &specs.LinuxBlockIO{Weight: &o.blkioWeight}
	}
	if given("pids-limit") {
		r.Pids = &specs.LinuxPids{Limit: o.pidsLimit}
	}
	return r, o.overMemory(r, given)
}

func (o *updateOptions) overCPU(r *specs.LinuxResources, given func(flag string) bool) {
	cpu := r.CPU
	if cpu == nil {
		cpu = &specs.LinuxCPU{}
	}
	if given("cpu-period") {
		cpu.Period = &o.cpuPeriod
	}
	if given("cpu-quota") {
		cpu.Quota = &o.cpuQuota
	}
	if given("cpu-share") {
		cpu.Shares = &o.cpuShares
	}
	if given("cpuset-cpus") {
		cpu.Cpus = o.cpusetCPUs
	}
	if given("cpuset-mems") {
		cpu.Mems = o.cpusetMems
	}
	if *cpu != (specs.LinuxCPU{}) {
		r.CPU = cpu
	}
}

func (o *updateOptions) overMemory(r *specs.LinuxResources, given func(flag string) bool) error {
	memory := r.Memory
	if memory == nil {
		memory = &specs.LinuxMemory{}
	}
	for _, limit := range []struct {
		flag, text string
		into       **int64
	}{
		{"memory", o.memory, &memory.Limit},
		{"memory-reservation", o.memoryReservation, &memory.Reservation},
		{"memory-swap", o.memorySwap, &memory.Swap},
	} {
		if !given(limit.flag) {
			continue
		}
		bytes, err := parseBytes(limit.text)
		if err != nil {
			return usageError("--%s: %v", limit.flag, err)
		}
		*limit.into = &bytes
	}
	if *memory != (specs.LinuxMemory{}) {
		r.Memory = memory
	}
	return nil
}

func readResources(path string, into *specs.LinuxResources) error {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("read resources: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxResourcesBytes+1))
	if err != nil {
		return fmt.Errorf("read resources: %w", err)
	}
	if len(data) > maxResourcesBytes {
		return fmt.Errorf("read resources: more than %d bytes", maxResourcesBytes)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read resources: %w", err)
	}
	return nil
}

// parseBytes understands a number of bytes with a binary suffix, and -1 for no
// limit.
func parseBytes(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I")
	shift := 0
	if i := strings.IndexAny(number, "KMGT"); i >= 0 && i == len(number)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", number[i]))
		number = number[:i]
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes, such as 512M", text)
	}
	return n << shift, nil
}
