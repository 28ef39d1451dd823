package main

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// tickMillis is how often a workload shows that it is alive: the resolution of the pause.
const tickMillis = 2

// A workload is what runs inside. It says "start", "ready" and "tick N" on stdout: see package guest.
type workload struct {
	name    string
	sizeMiB int
	args    []string
}

var workloads = []workload{
	{
		name: "shell",
		// usleep is an applet of the shell itself where the shell prefers applets, a child process otherwise; either way each tick is a
		// piece of work.
		args: []string{"/bin/busybox", "sh", "-c", fmt.Sprintf(
			`echo start; echo ready; i=0; while :; do i=$((i+1)); echo tick $i; /bin/busybox usleep %d; done`, tickMillis*1000)},
	},
	{name: "python", sizeMiB: 512, args: guest.Program("python.py")},
	{name: "redis", sizeMiB: 1024, args: guest.Program("redis.py")},
}

// bundle describes the workload's container. A rootfs is given, since runsc does not put mounts into a rootfs that is "/" itself. What the
// workload writes stays in the sandbox: after a checkpoint it goes on, and files of the host would no longer be those of the image.
func (w workload) bundle(rootfs, programs string) guest.Bundle {
	b := guest.Bundle{
		Args: w.args,
		Root: rootfs,
		Env:  []string{fmt.Sprintf("TICK_MS=%d", tickMillis), fmt.Sprintf("SIZE_MIB=%d", w.sizeMiB), "CONTENT=mixed"},
	}
	b.Mounts = append(b.Mounts, guest.Bind(programs, guest.ProgramsDir, "ro"), specs.Mount{Destination: guest.DataDir, Type: "tmpfs", Source: "tmpfs"})
	return b
}
