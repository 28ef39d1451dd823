package control

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/urpc"
)

// Methods that package boot serves.
const (
	MethodStart     = "Lifecycle.Start"     // Which → None
	MethodStatus    = "Lifecycle.Status"    // Which → Status
	MethodWait      = "Lifecycle.Wait"      // WaitArgs → WaitResult
	MethodSignal    = "Lifecycle.Signal"    // SignalArgs → None
	MethodPause     = "Lifecycle.Pause"     // None → None
	MethodResume    = "Lifecycle.Resume"    // None → None
	MethodExec      = "Lifecycle.Exec"      // ExecArgs → ExecResult
	MethodProcesses = "Lifecycle.Processes" // Which → []Process
	MethodStats     = "Lifecycle.Stats"     // Which → Stats
	MethodCreate    = "Lifecycle.Create"    // CreateArgs → None
	MethodDestroy   = "Lifecycle.Destroy"   // Which → None
)

// None is the argument or result of a method that has none.
type None struct{}

// Which names a container of the sandbox.
type Which struct {
	// Container is the kernel's name of it, empty for the sandbox's first.
	Container string `json:"container,omitempty"`
}

// Status says where a sandbox is in its life. It is answered without taking a
// lock of the kernel, so that it works on a wedged one.
type Status struct {
	// Status is an OCI status: created, running, paused or stopped.
	Status string `json:"status"`
	// PIDs is the number of live processes, -1 if it is not known.
	PIDs int `json:"pids"`
}

// WaitArgs names the process to wait for.
type WaitArgs struct {
	Which
	// PID is a process of the container, as it is numbered there; 0 means its first one.
	PID int32 `json:"pid"`
}

// WaitResult is how a process ended.
type WaitResult struct {
	// Status is the exit status, or 128 plus the signal that ended it.
	Status int `json:"status"`
}

// SignalTarget says who receives a signal.
type SignalTarget string

// The targets of Signal.
const (
	// TargetProcess is the one process that PID names.
	TargetProcess SignalTarget = "process"
	// TargetForeground is the foreground process group of PID's terminal.
	TargetForeground SignalTarget = "foreground"
	// TargetAll is every process of the container.
	TargetAll SignalTarget = "all"
)

// SignalArgs asks for a signal to be sent.
type SignalArgs struct {
	Which
	PID    int32        `json:"pid"` // 0 means the container's first process
	Signal int32        `json:"signal"`
	Target SignalTarget `json:"target"`
}

// ExecArgs starts a further process in the container.
type ExecArgs struct {
	// Files are stdin, stdout and stderr; one file, the terminal's slave end,
	// where Process.Terminal is set. Files beyond those (PreserveFDs) become 3,
	// 4, … inside. The call closes none of the caller's files.
	urpc.FilePayload
	Which
	Process specs.Process `json:"process"`
}

// ExecResult is the new process.
type ExecResult struct {
	PID int32 `json:"pid"`
}

// Process is a row of ps.
type Process struct {
	PID     int32   `json:"pid"`
	PPID    int32   `json:"ppid"`
	PGID    int32   `json:"pgid"`
	UID     uint32  `json:"uid"`
	TTY     string  `json:"tty"`
	Threads []int32 `json:"threads"`
	CPUTime string  `json:"cpuTime"`
	Start   string  `json:"start"`
	Command string  `json:"command"`
}

// Stats is one sample of what a sandbox uses. Sizes are bytes.
type Stats struct {
	MemoryUsage  uint64            `json:"memoryUsage"`
	MemoryMapped uint64            `json:"memoryMapped"`
	MemoryLimit  uint64            `json:"memoryLimit"`
	MemoryByKind map[string]uint64 `json:"memoryByKind"`
	CPUNanos     uint64            `json:"cpuNanos"`
	PIDs         int               `json:"pids"`
}
