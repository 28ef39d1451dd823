package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// A stand-in is a process on the host for a process inside a sandbox.
//
// It leads the session of the terminal that the process inside has, since the
// host sends a terminal's signals (ctrl-C, ctrl-\, ctrl-Z, a new window size, a
// hang-up) to a session of its own and knows nothing of the one inside. It
// passes on what it receives, and exits with the status of the process inside,
// so that its PID can stand in a pid file and its parent can collect it.
//
// Where nobody else does, it also keeps the terminal: see keeper.go.
//
// Beside a foreground command it ends when the command lets go of it, which is
// after the last output: the end of a session's leader hangs the terminal up, and
// what has not been read by then is lost. Without one it ends with the process
// inside.
type standIn struct {
	cmd    *exec.Cmd
	ready  *os.File // says standInReady once it would survive a signal
	assign *os.File // takes the PID inside, once; closed to let go
}

const standInCommand = "stand-in"

// Descriptors of a stand-in, after its streams.
const (
	standInReadyFD  = 3
	standInAssignFD = 4
	standInMasterFD = 5 // of a keeper
	standInLogFD    = 6 // the same
)

const standInReady = "ready"

// containerPID stands for the container's first process.
const containerPID int32 = 0

// startStandIn starts a stand-in for a process of the sandbox id, which need not
// exist yet. terminal is the slave end, nil if there is none; the caller keeps
// it. The caller calls letGo or collect.
func (c *cli) startStandIn(id string, terminal *os.File) (*standIn, error) {
	return c.startStandInWith(id, terminal, nil)
}

// startStandInWith is startStandIn with more files, from standInMasterFD on; the
// caller keeps them.
func (c *cli) startStandInWith(id string, terminal *os.File, more []*os.File) (*standIn, error) {
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer readyChild.Close()
	assignChild, assign, err := os.Pipe()
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer assignChild.Close()
	s := &standIn{ready: ready, assign: assign, cmd: exec.Command("/proc/self/exe", "--root", c.root, standInCommand, id)}
	s.cmd.Args[0] = "sbxmigrate"
	s.cmd.Env = []string{}
	s.cmd.ExtraFiles = append([]*os.File{readyChild, assignChild}, more...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if terminal != nil {
		s.cmd.Stdin = terminal
		s.cmd.SysProcAttr.Setctty = true // Ctty 0 is its stdin
	}
	if err := s.cmd.Start(); err != nil {
		s.letGo()
		return nil, fmt.Errorf("start stand-in: %w", err)
	}
	return s, nil
}

// assignTo says whom the stand-in stands for. When it returns, the stand-in
// passes signals on. alone says that it is to go on by itself.
func (s *standIn) assignTo(pid int32, alone bool) error {
	return s.tell(assignment{PID: pid, Alone: alone})
}

func (s *standIn) tell(a assignment) error {
	if said, err := io.ReadAll(s.ready); err != nil || string(said) != standInReady {
		return errors.New("start stand-in: it ended without a word")
	}
	if err := json.NewEncoder(s.assign).Encode(a); err != nil {
		return fmt.Errorf("assign stand-in: %w", err)
	}
	return nil
}

// An assignment is what a stand-in is told.
type assignment struct {
	PID   int32 `json:"pid"` // inside
	Alone bool  `json:"alone"`
	// Keep says that it was given the terminal's other end and a log, to keep them.
	Keep bool `json:"keep,omitempty"`
}

// maxAssignmentBytes bounds it.
const maxAssignmentBytes = 128

func (s *standIn) pid() int { return s.cmd.Process.Pid }

// letGo ends a stand-in, unless it goes on alone.
func (s *standIn) letGo() {
	s.ready.Close()
	s.assign.Close()
}

// collect lets go of the stand-in and waits for its end.
func (s *standIn) collect() {
	s.letGo()
	s.cmd.Wait()
}

func newStandInCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:         standInCommand + " ID",
		Short:       "Stand on the host for a process inside (internal)",
		Hidden:      true,
		Args:        idArg(),
		Annotations: passStatus(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStandIn(cmd.Context(), c, args[0])
		},
	}
}

func runStandIn(ctx context.Context, c *cli, id string) error {
	caught := make(chan os.Signal, 32)
	signal.Notify(caught, append([]os.Signal{unix.SIGWINCH, unix.SIGTSTP, unix.SIGPIPE}, forwarded...)...)
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	terminal := err == nil
	// The terminal stays ours as the leader of its session. An open descriptor
	// would keep its other end from noticing that the process inside is gone.
	if err := nullStdin(); err != nil {
		return err
	}
	ready := os.NewFile(standInReadyFD, "ready")
	if _, err := ready.WriteString(standInReady); err != nil {
		return err
	}
	ready.Close()
	assign := os.NewFile(standInAssignFD, "assign")
	defer assign.Close()
	var told assignment
	decoder := json.NewDecoder(io.LimitReader(assign, maxAssignmentBytes))
	if err := decoder.Decode(&told); err != nil {
		return fmt.Errorf("stand-in was assigned to nobody: %w", err)
	}
	s, err := c.open(id)
	if err != nil {
		return err
	}
	if told.PID == containerPID {
		if err := s.JoinCgroup(); err != nil {
			c.warn(err.Error())
		}
	}
	go passOn(ctx, s, told.PID, terminal, caught)
	if told.Keep {
		return keepTerminal(ctx, s, told.PID)
	}
	if !told.Alone {
		_, err := io.Copy(io.Discard, assign) // ends when it is let go of
		return err
	}
	status, err := waitFor(ctx, s, told.PID)
	if err != nil {
		return err
	}
	return exitStatus(status)
}

func nullStdin() error {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	return unix.Dup3(null, 0, 0)
}

// passOn passes the signals of a terminal to its foreground process group
// inside, and others to the process. It does not end.
func passOn(ctx context.Context, s *sandbox.Sandbox, pid int32, terminal bool, caught <-chan os.Signal) {
	for sig := range caught {
		number := sig.(unix.Signal)
		foreground := false
		switch number {
		case unix.SIGPIPE:
			continue
		case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH, unix.SIGHUP:
			foreground = terminal
		}
		// The process may be gone, and the sandbox's kernel may be stuck; nobody
		// is there to be told.
		_ = s.SignalProcess(ctx, pid, number, foreground)
	}
}

// waitFor blocks until a process inside has ended, containerPID for the
// container, and returns its exit status.
func waitFor(ctx context.Context, s *sandbox.Sandbox, pid int32) (int, error) {
	if pid == containerPID {
		return s.Wait(ctx)
	}
	return s.WaitProcess(ctx, pid)
}

// agentStandIn is a stand-in that the agent starts for a container that arrives.
type agentStandIn struct{ *standIn }

// standInOf is migrate.Receiver.StandIns.
func (c *cli) standInOf(containerID string) (migrate.StandIn, error) {
	s, err := c.startStandIn(containerID, nil)
	if err != nil {
		return nil, err
	}
	go s.cmd.Wait() // collects it
	return agentStandIn{s}, nil
}

// PID implements migrate.StandIn.
func (s agentStandIn) PID() int { return s.pid() }

// Assign implements migrate.StandIn.
func (s agentStandIn) Assign() error { return s.assignTo(containerPID, true) }

// Close implements migrate.StandIn.
func (s agentStandIn) Close() { s.letGo() }
