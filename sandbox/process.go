package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Process names a process for good: a PID alone comes around again.
type Process struct {
	PID int `json:"pid"`
	// StartTicks is when it started, in clock ticks since boot (field 22 of
	// /proc/PID/stat).
	StartTicks uint64 `json:"startTicks"`
}

// identify names the live process pid.
func identify(pid int) (Process, error) {
	_, start, err := readStat(pid)
	return Process{PID: pid, StartTicks: start}, err
}

// Alive says whether the process still runs. A zombie does not.
func (p Process) Alive() bool {
	state, start, err := readStat(p.PID)
	return err == nil && start == p.StartTicks && state != 'Z' && state != 'X'
}

// kill ends the process if it is still the one that p names.
func (p Process) kill() error {
	// The descriptor names one process; the check after it says which.
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// wait blocks until the process has ended or ctx has.
func (p Process) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || err == nil && !p.Alive() {
		if err == nil {
			unix.Close(fd)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wake)
	stop := context.AfterFunc(ctx, func() { unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch process %d: %w", p.PID, err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// readStat returns a process's state letter and start time (proc(5)).
func readStat(pid int) (state byte, startTicks uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command name is in parentheses and may hold anything; the fields
	// follow the last one.
	end := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	const stateField, startField = 0, 19
	if end < 0 || len(fields) <= startField {
		return 0, 0, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	startTicks, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	return fields[stateField][0], startTicks, err
}
