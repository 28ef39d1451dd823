package spare

import (
	"fmt"
	"os"
	"syscall"
)

// StartPlaced is Start for a process that place puts somewhere (into a cgroup) before
// it has done anything, so that nothing of it is accounted for elsewhere. It stands
// still meanwhile, with its program just loaded, as one that is traced does.
func StartPlaced(label, platform string, errors *os.File, place func(pid int) error) (*Process, error) {
	// A tracer is a thread: this is called on one of its own.
	return startSandbox(label, platform, errors, func(argv []string, attr *os.ProcAttr) (*os.Process, error) {
		attr.Sys.Ptrace = true
		process, err := os.StartProcess(self, argv, attr)
		if err != nil {
			return nil, err
		}
		if err := placeStopped(process.Pid, place); err != nil {
			process.Kill()
			process.Wait()
			return nil, err
		}
		return process, nil
	})
}

// placeStopped awaits the stop of a traced process that has just been started, places
// it and lets it go.
func placeStopped(pid int, place func(int) error) error {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, syscall.WALL, nil)
		if err == nil {
			break
		}
		if err != syscall.EINTR {
			return fmt.Errorf("await start of sandbox process: %w", err)
		}
	}
	if !status.Stopped() {
		return fmt.Errorf("sandbox process ended at its start: %v", status)
	}
	if err := place(pid); err != nil {
		return err
	}
	if err := syscall.PtraceDetach(pid); err != nil {
		return fmt.Errorf("let sandbox process go: %w", err)
	}
	return nil
}
