package inside

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// The methods that Checkpoint serves on the control socket.
const (
	MethodSurvey  = "Checkpoint.Survey"  // None → Survey
	MethodPrepare = "Checkpoint.Prepare" // None → Prepared
	MethodSave    = "Checkpoint.Save"    // SaveArgs → SaveResult
	MethodResume  = "Checkpoint.Resume"  // None → None
	MethodDisarm  = "Checkpoint.Disarm"  // None → None

	MethodArm      = "Checkpoint.Arm"      // ArmArgs → ArmResult
	MethodCollect  = "Checkpoint.Collect"  // None → PageRanges
	MethodMapped   = "Checkpoint.Mapped"   // None → PageRanges
	MethodThrottle = "Checkpoint.Throttle" // ThrottleArgs → ThrottleResult
	MethodRelease  = "Checkpoint.Release"  // ReleaseArgs → None
	MethodFrames   = "Checkpoint.Frames"   // None → FrameList
	MethodInject   = "Checkpoint.Inject"   // FrameList → None
	MethodResets   = "Checkpoint.Resets"   // ResetArgs → None
	MethodAttach   = "Checkpoint.Attach"   // AttachArgs → Attached
	MethodMemory   = "Checkpoint.Memory"   // None → Prepared, of a kernel that is stopped for good
)

// Survey is what a sandbox says of itself before it is saved.
type Survey struct {
	CPU      CPU                 `json:"cpu"`
	Sessions []boot.Session      `json:"sessions"`
	Terminal *boot.TerminalState `json:"terminal,omitempty"`
	// Containers are those besides the first, which have not ended.
	Containers []boot.ContainerState `json:"containers,omitempty"`
	Processes  []Process             `json:"processes"`
	// MemoryBytes is the size of the memory file, holes included.
	MemoryBytes uint64 `json:"memoryBytes"`
	// Network is the identity as the guest has made it by now. Losses are what
	// it has beyond that and will not have again.
	Network *network.Identity `json:"network"`
	Losses  []network.Loss    `json:"losses,omitempty"`
	// Connections are those that it has at the moment.
	Connections []network.Connection `json:"connections,omitempty"`
	// Findings are what cannot be saved right now.
	Findings []Finding `json:"findings,omitempty"`
}

// Warnings are the losses, for people.
func (s *Survey) Warnings() []string {
	var warnings []string
	for _, l := range s.Losses {
		warnings = append(warnings, fmt.Sprintf("%s: %s", l.Code, l.Detail))
	}
	return warnings
}

// CPU is what of the host's processor a saved kernel depends on. A restoring
// host must have all of Features and equal values elsewhere: the saved
// registers are laid out by them.
type CPU struct {
	Arch           string   `json:"arch"`
	Features       []string `json:"features"`
	CacheLineBytes uint32   `json:"cacheLineBytes"`
	XSAVEBytes     uint32   `json:"xsaveBytes"`
	XSAVEMask      uint64   `json:"xsaveMask"`
}

// Process is a process of the sandbox, for people who inspect an image.
type Process struct {
	PID     int32  `json:"pid"`
	PPID    int32  `json:"ppid"`
	Threads int    `json:"threads"`
	Command string `json:"command"`
}

// Finding is a thing that would make a save fail.
type Finding struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

// Prepared carries the memory file.
type Prepared struct {
	urpc.FilePayload        // Files[0] is the memfd; the receiver closes it
	MemoryBytes      uint64 `json:"memoryBytes"`
}

// SaveArgs starts a stop. Files are, in this order: where kernel state goes,
// where memory metadata goes, where page ranges go, the lifeline and, for a
// migration, where the events of the stop go (see events.go).
type SaveArgs struct {
	urpc.FilePayload
	// Connections asks for those of the saved kernel; a checkpoint gets them unasked.
	Connections bool `json:"connections,omitempty"`
}

// SaveFiles is the number of files in SaveArgs.
const SaveFiles = 4

// SaveResult says how the stop went so far; tasks are still stopped.
type SaveResult struct {
	// PauseNanos is how long tasks took to stop, SaveNanos the save itself.
	PauseNanos int64 `json:"pauseNanos"`
	SaveNanos  int64 `json:"saveNanos"`
	// StoppedUnixNano is when the first task was asked to stop.
	StoppedUnixNano int64 `json:"stoppedUnixNano"`
	// Sessions, Terminal and Containers are those that the saved kernel has.
	Sessions   []boot.Session        `json:"sessions"`
	Terminal   *boot.TerminalState   `json:"terminal,omitempty"`
	Containers []boot.ContainerState `json:"containers,omitempty"`
	// Connections are those of the saved kernel, with the numbers that they stopped
	// at. A migration gets them if it asks.
	Connections []network.Connection `json:"connections,omitempty"`
}

// ResetArgs are connections of a loaded kernel that end when it is started, whose peers are told.
type ResetArgs struct {
	Fates []network.Fate `json:"fates"`
}

// What goes through the file for page ranges: records of RangeBytes, a first
// byte and an end, little endian. The memory up to InlineBytes is different: the
// page through which the guest reads the time lies there, and it changes again
// as soon as the save is over. A record that lies below InlineBytes is followed
// by the bytes themselves, and none lies across it. The last record is two zeros: the
// end of the stream itself comes only after the save.
const (
	RangeBytes  = 16
	InlineBytes = 64 << 10
)
